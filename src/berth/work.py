"""`Work`: one request for the model on its way from a protocol to the executor and back.

A protocol makes it; the application admits it, the batcher runs it, and whoever finishes it first (the model, the
deadline, a caller that hung up) marks it done, after which every other one leaves it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import msgspec

from berth.executor import Outcome
from berth.signature import Call


class Work(msgspec.Struct, eq=False):
    """One request for the model.

    `encode` turns the answers into the protocol's response, `input_status` is the protocol's word for bad input, and
    `timeout` (seconds) is the caller's own deadline. The rest is filled in on the way; `arrived` is on the performance
    counter's clock, `deadline` on the event loop's.
    """

    calls: list[Call]
    encode: Callable[[list[Any]], Any]
    input_status: int
    timeout: float | None = None
    key: Hashable = None
    rows: int = 1
    arrived: float = 0.0
    deadline: float = 0.0
    done: bool = False
    exchange: Any = None
    on_outcome: Callable[[Work, Outcome], None] | None = None
