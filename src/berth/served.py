"""One model as it is being served: who may come in, what runs together, on what, and what was counted.

`submit` is the only way in; the outcome of a batch goes to answers.py. The server makes one per loaded version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar

from berth.admission import Admission
from berth.answers import Answers
from berth.batching import Batcher, BatchSizes
from berth.config import ModelSettings
from berth.executor import Executor
from berth.metrics import ModelMetrics
from berth.model import Model
from berth.protocols.base import Refusal
from berth.streams import StreamQueue
from berth.tensors import Array
from berth.work import Work

_Made = TypeVar("_Made")


class ServedModel:
    """A loaded version of a model, with its queue."""

    def __init__(
        self,
        settings: ModelSettings,
        model: Model,
        executor: Executor,
        answers: Answers,
        metrics: ModelMetrics,
    ) -> None:
        serving = settings.serving
        self.settings = settings
        self.name, self.version = settings.name, settings.version
        self.model = model
        self.metrics = metrics
        self.max_rows = serving.max_batch_size
        self._answers = answers
        self._admission = Admission(serving.max_queue, serving.request_timeout)
        self.executor = executor
        sizes = BatchSizes(serving.max_batch_size, serving.max_batch_delay)
        self._batcher: Batcher | StreamQueue
        if model.streams:
            self._batcher = StreamQueue(executor, metrics, answers)
        else:
            self._batcher = Batcher(model, executor, metrics, answers.deliver, sizes)
        self._loop = asyncio.get_running_loop()
        self._expiry: asyncio.TimerHandle | None = None
        self._expires = float("inf")
        self._made: dict[Any, Any] = {}
        metrics.pending = self._admission.__len__

    @property
    def in_flight(self) -> int:
        """How many requests it still owes an answer."""
        return len(self._admission)

    @property
    def why_unready(self) -> str:
        """Why it cannot answer at the moment; nothing when it can."""
        why = self.executor.why_not_ready
        return f"model {self.name!r}: {why}" if why else ""

    def made(self, make: Callable[[ServedModel], _Made]) -> _Made:
        """What a protocol needs for this model, made once and kept as long as the model."""
        found = self._made.get(make)
        if found is None:
            found = self._made[make] = make(self)
        made: _Made = found
        return made

    def submit(self, work: Work) -> None:
        """Take a work in; its answer comes later. Refusal (503) when the queue is full."""
        work.arrived = now = perf_counter()
        self.metrics.decode.observe(now - work.exchange.started)
        if not self._admission.admit(work, now):
            self.metrics.failures["REJECTED"] += 1
            text = f"the queue is full ({len(self._admission)} requests, BERTH_MAX_QUEUE); try again"
            raise Refusal(503, text, ((b"Retry-After", b"1"),))
        try:
            self._batcher.submit(work)
        except Refusal:
            self._admission.release(work)
            raise
        if work.deadline < self._expires:
            self._plan_expiry(work.deadline)

    def idle_and_quick(self) -> bool:
        """Whether an express lane may run a batch right now."""
        return self._batcher.idle_and_quick and self._answers.plain

    def run_packed(self, blobs: Sequence[bytes]) -> dict[str, Array]:
        """Run single rows for an express lane; ModelError, or whatever the backend raises."""
        return self.model.run_packed(blobs)

    def answered_plainly(self, route: str, count: int, seconds: float) -> None:
        """An express lane has answered a batch of single rows, which ran for `seconds`."""
        self.metrics.batch.observe(count)
        self.metrics.express += count
        if isinstance(self._batcher, Batcher):
            self._batcher.ran(seconds, 1)
        self._answers.count_plain(self.metrics, route, count)

    def release(self, work: Work) -> Any:
        """End a work's life; its exchange, parted from it."""
        self._admission.release(work)
        exchange, work.exchange = work.exchange, None
        return exchange

    def release_all(self, works: Sequence[Work]) -> None:
        """End the life of a batch's works."""
        self._admission.release_all(works)

    def _plan_expiry(self, deadline: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expires = deadline
        self._expiry = self._loop.call_later(max(0.0, deadline - perf_counter()), self._expire)

    def _expire(self) -> None:
        self._expiry, self._expires = None, float("inf")
        for work in self._admission.expired(perf_counter()):
            self._answers.expire(work)
        earliest = self._admission.earliest_deadline()
        if earliest < self._expires:
            self._plan_expiry(earliest)
