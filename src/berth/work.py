"""`Work`: one request for the model on its way from a protocol to the executor and back.

A protocol makes it; the application admits it, the batcher runs it, and whoever finishes it first (the model, the
deadline, a caller that hung up) marks it done, after which every other one leaves it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from berth.executor import Outcome
from berth.signature import Call


class Work:
    """One request for the model.

    `encode` turns the answers into the protocol's response, `input_status` is the protocol's word for bad input, and
    `timeout` (seconds) is the caller's own deadline.
    """

    __slots__ = (
        "arrived",
        "calls",
        "deadline",
        "done",
        "encode",
        "exchange",
        "input_status",
        "key",
        "on_outcome",
        "rows",
        "timeout",
    )

    def __init__(
        self,
        calls: list[Call],
        encode: Callable[[list[Any]], Any],
        input_status: int,
        timeout: float | None = None,
    ) -> None:
        self.calls = calls
        self.encode = encode
        self.input_status = input_status
        self.timeout = timeout
        self.key: Hashable = None
        self.rows = 1
        self.arrived = 0.0
        self.deadline = 0.0
        self.done = False
        self.exchange: Any = None
        self.on_outcome: Callable[[Work, Outcome], None] | None = None
