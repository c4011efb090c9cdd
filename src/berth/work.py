"""`Work`: one request for a model on its way from a protocol to the executor and back.

A protocol makes it; its model's queue admits it, the batcher runs it, and whoever finishes it first (the model, the
deadline, a caller that hung up) marks it done, after which every other one leaves it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from berth.metrics import ModelMetrics


class Queue(Protocol):
    """Where a work waits: the model that it is for, as the rest of the server sees it."""

    metrics: ModelMetrics

    @property
    def bears(self) -> float:
        """How many refusals a second do not slow the model; infinity while none do."""

    def turned_away(self, timeout: float | None) -> Any:
        """The Refusal of whoever comes now with so many seconds to wait; None when there may be room and time."""

    def submit(self, work: Work) -> None:
        """Take a work in; its answer comes later. Refusal when there is no room."""

    def release(self, work: Work) -> Any:
        """End a work's life; its exchange, parted from it."""

    def release_all(self, works: Sequence[Work]) -> None:
        """End the life of a batch's works; their exchanges are the caller's to part."""


class StreamEncoder(Protocol):
    """How a protocol writes a stream."""

    def head(self) -> Any:
        """The `Response` whose status and content type begin the stream, and whose body may."""

    def item(self, answer: Any) -> bytes:
        """One item."""

    def end(self) -> bytes:
        """What follows the last item."""

    def failed(self, status: int, text: str) -> bytes:
        """What is said when the stream breaks off after its head was sent."""


class Work(msgspec.Struct, eq=False):
    """One request for the model.

    `encode` turns the answers into the protocol's response, `input_status` is the protocol's word for bad input, and
    `timeout` (seconds) is the caller's own deadline. `rows` are counted by the batcher where they are 0.
    `priority`: 1 goes before 2 and so on, 0 after all. `size` is the request's in bytes; `key`,
    `cache_status` and `age` are the response cache's.
    With `stream`, a predictor that yields is answered item by item; without, `items` collects them. The rest is filled
    in on the way; `arrived` and `deadline` are on the performance counter's clock.
    """

    queue: Queue
    calls: list[Any]
    encode: Callable[[list[Any]], Any]
    input_status: int
    timeout: float | None = None
    rows: int = 0
    priority: int = 0
    size: int = 0
    arrived: float = 0.0
    deadline: float = 0.0
    stream: StreamEncoder | None = None
    begun: bool = False
    key: bytes | None = None
    cache_status: bytes = b""
    age: int | None = None
    items: list[Any] = []
    done: bool = False
    exchange: Any = None

    @property
    def trace_headers(self) -> dict[str, str]:
        """Of its request; empty when that is gone, or is of no trace."""
        exchange = self.exchange
        headers: dict[str, str] = {} if exchange is None else exchange.trace_headers
        return headers
