"""Predictors that yield: their queue, and the way of each item from the executor's thread to the caller.

An item crosses to the event loop as soon as it is there. At most `AHEAD` of them wait for a caller that reads slowly,
then the predictor waits too; when the caller hangs up, its generator is closed. served.py makes one queue per model
that streams, in the place of a batcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from time import perf_counter
from typing import Any, Protocol

from berth.executor import Executor, Failed
from berth.giving_way import Bearing
from berth.metrics import ModelMetrics
from berth.protocols.base import Refusal
from berth.work import Work

AHEAD = 16
_PATIENCE_S = 0.5  # how often a predictor that waits for its caller looks whether there is one


class Listener(Protocol):
    """Who hears of a stream, on the event loop."""

    def stream_item(self, work: Work, value: Any) -> bool:
        """One item; False when no more should come before `on_room` of the exchange."""

    def stream_end(self, work: Work, failed: Failed | None) -> None:
        """The last item was there, or `failed` says why no more come."""


class StreamQueue:
    """Works that stream: as many at once as the executor can, the others in order."""

    idle_and_quick = False
    expected_wait = 0.0  # streams take as long as they take

    def __init__(self, executor: Executor, metrics: ModelMetrics, listener: Listener) -> None:
        self._executor = executor
        self._metrics = metrics
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Work] = deque()
        self._running = 0
        self.bearing = Bearing()  # nothing is learned of streams: they bear everything

    @property
    def waiting(self) -> int:
        """How many requests have not begun."""
        return sum(not work.done for work in self._waiting)

    def hurry(self) -> None:
        """Nothing: a stream begins as soon as it may."""

    def submit(self, work: Work) -> None:
        """Start a stream, or queue it; Refusal (400) for several calls at once."""
        if len(work.calls) != 1:
            raise Refusal(400, f"a predictor that yields takes one row at a time, got {len(work.calls)}")
        self._waiting.append(work)
        self._pump()

    def _pump(self) -> None:
        while self._waiting and self._running < self._executor.capacity:
            work = self._waiting.popleft()
            if work.done:
                continue
            self._running += 1
            now = perf_counter()
            work.exchange.queued = now - work.arrived
            self._metrics.queue.observe(now - work.arrived)
            self._metrics.batch.observe(1)
            self._executor.stream(work.calls[0], _Crossing(work, self._loop, self._listener, self._ended))

    def _ended(self, seconds: float) -> None:
        self._running -= 1
        self._metrics.ran(seconds, 1)
        self._pump()


class _Crossing:
    """One stream between two threads."""

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop, listener: Listener, ended: Any) -> None:
        self._work = work
        self._exchange = work.exchange
        self._loop = loop
        self._listener = listener
        self._ended = ended
        self._room = threading.Semaphore(AHEAD)
        self._began = perf_counter()

    # -- the executor's thread ----------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """Until when the caller waits for the next item."""
        return 0.0 if self._work.done else self._work.deadline

    def traces(self) -> list[dict[str, str]]:
        """Of the one request that streams."""
        return [self._work.trace_headers]

    @property
    def full(self) -> bool:
        """Whether `item` would wait."""
        return self._room._value == 0  # there is no other way to look without taking

    def item(self, value: Any) -> bool:
        """One more item; False when nobody listens."""
        while not self._room.acquire(timeout=_PATIENCE_S):
            if self._work.done:
                return False
        if self._work.done:
            return False
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._hear, value)
            return True
        return False

    def close(self, failed: Failed | None) -> None:
        """No more items."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._close, failed)

    # -- the event loop -----------------------------------------------------------------------------------------------

    def _hear(self, value: Any) -> None:
        if self._work.done or self._listener.stream_item(self._work, value):
            self._room.release()
        else:
            self._exchange.on_room(self._room.release)

    def _close(self, failed: Failed | None) -> None:
        self._ended(perf_counter() - self._began)
        if not self._work.done:
            self._listener.stream_end(self._work, failed)
