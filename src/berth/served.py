"""One model as it is being served: who may come in, what runs together, on what, and what was counted.

`submit` is the only way in; the outcome of a batch goes to answers.py. The server makes one per loaded version.
"""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from berth.admission import Admission
from berth.answers import Answers
from berth.batching import Batcher, BatchSizes
from berth.config import ModelSettings
from berth.executor import Executor, Finished
from berth.metrics import ModelMetrics
from berth.model import Model
from berth.protocols.base import Head, Refusal
from berth.streams import StreamQueue
from berth.tensors import Array
from berth.work import Work

if TYPE_CHECKING:
    from berth.cache import ResponseCache

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
        self._patience = serving.hang_timeout
        self._unready_since = math.inf
        self._answers = answers
        self._admission = Admission(serving.max_queue, serving.max_queue_bytes, serving.request_timeout)
        self.executor = executor
        self._cache: ResponseCache | None = None
        if serving.cache_bytes and not model.streams:
            caching = importlib.import_module("berth.cache")  # it brings hash functions, for which few servers have use
            self._cache = caching.ResponseCache(model, serving.cache_bytes, serving.cache_ttl)
            metrics.cache = self._cache
        sizes = BatchSizes(serving.max_batch_size, serving.max_batch_delay)
        self._batcher: Batcher | StreamQueue
        if model.streams:
            self._batcher = StreamQueue(executor, metrics, answers)
        else:
            deliver = answers.deliver if self._cache is None else self._deliver_and_remember
            self._batcher = Batcher(model, executor, metrics, deliver, sizes)
        self._loop = asyncio.get_running_loop()
        self._expiry: asyncio.TimerHandle | None = None
        self._expires = float("inf")
        self._made: dict[Any, Any] = {}
        self.why_incomplete: Callable[[], str] = str  # of the models that this one calls
        metrics.pending = self._admission.__len__
        metrics.waiting = lambda: self._batcher.waiting

    @property
    def in_flight(self) -> int:
        """How many requests it still owes an answer."""
        return len(self._admission)

    @property
    def bears(self) -> float:
        """How many refusals a second do not slow the model; infinity while none do."""
        return self._batcher.bearing.rate

    @property
    def why_unready(self) -> str:
        """Why it cannot answer at the moment; nothing when it can."""
        why = self.executor.why_not_ready or self.why_incomplete()
        return f"model {self.name!r}: {why}" if why else ""

    @property
    def remembers(self) -> bool:
        """Whether its answers are kept and given again."""
        return self._cache is not None

    @property
    def why_dead(self) -> str:
        """Why waiting does not help it any more; nothing while it may."""
        why = self.executor.why_dead
        if not why and self._patience and (seconds := perf_counter() - self._unready_since) > self._patience:
            why = f"{self.executor.why_not_ready}, for {seconds:.0f} s (BERTH_HANG_TIMEOUT_S)"
        return f"model {self.name!r}: {why}" if why else ""

    def look(self) -> None:
        """Twice a second: note since when nothing runs it."""
        if not self.executor.why_not_ready:
            self._unready_since = math.inf
        elif self._unready_since == math.inf:
            self._unready_since = perf_counter()

    def made(self, make: Callable[[ServedModel], _Made]) -> _Made:
        """What a protocol needs for this model, made once and kept as long as the model."""
        found = self._made.get(make)
        if found is None:
            found = self._made[make] = make(self)
        made: _Made = found
        return made

    def turned_away(self, timeout: float | None) -> Refusal | None:
        """The refusal (503) of whoever comes now, so that nobody reads its body in vain; None when there may be room.

        Under a flood of refusals a turn of the loop is long, so what was admitted goes first: answers that have come
        back meanwhile are given out, and the next batch begins, before anybody is turned away.
        """
        if not len(self._admission):
            return None
        refusal = self._admission.turned_away(timeout, self._batcher.expected_wait, perf_counter())
        if refusal is not None:
            self.executor.collect()
            self._batcher.hurry()
            self.metrics.failures["REJECTED"] += 1
        return refusal

    def submit(self, work: Work) -> None:
        """Take a work in; its answer comes later. Refusal (503) when there is no room or no time."""
        work.arrived = now = perf_counter()
        self.metrics.decode.observe(now - work.exchange.started)
        work.size = len(work.exchange.body)
        try:
            self._admission.admit(work, now, self._batcher.expected_wait)
        except Refusal:
            self.metrics.failures["REJECTED"] += 1
            raise
        if self._cache is None or not self._answered_from(self._cache, work, now):
            try:
                self._batcher.submit(work)
            except Refusal:
                self._admission.release(work)
                self.metrics.failures["OTHER"] += 1
                raise
        if work.deadline < self._expires:
            self._plan_expiry(work.deadline)

    def _answered_from(self, cache: ResponseCache, work: Work, now: float) -> bool:
        """Whether nothing has to run for a work: it is answered now, or when somebody's equal question is."""
        key = work.key = cache.key(work.calls)
        if key is None:
            return False
        entry = cache.find(key, now)
        if entry is None:
            joined = cache.join(key, work)
            work.cache_status = b"berth; fwd=miss; collapsed" if joined else b"berth; fwd=miss; stored"
            return joined
        age = now - entry.stored
        work.cache_status = b"berth; hit; ttl=%d" % (cache.ttl - age)
        work.age = int(age)
        self._loop.call_soon(self._answers.deliver, [work], Finished([entry.answers], 0.0, 0.0, 0))
        return True

    def _deliver_and_remember(self, works: list[Work], finished: Finished) -> None:
        assert self._cache is not None
        works, outcomes = list(works), list(finished.outcomes)
        now = perf_counter()
        for work, outcome in zip(tuple(works), tuple(outcomes), strict=True):
            if work.key is not None:
                for follower in self._cache.settle(work.key, outcome, now):
                    works.append(follower)
                    outcomes.append(outcome)
        self._answers.deliver(works, Finished(outcomes, finished.seconds, finished.busy, finished.runs))

    def idle_and_quick(self) -> bool:
        """Whether an express lane may run a batch right now."""
        return self._cache is None and self._batcher.idle_and_quick and self._answers.plain

    def run_packed(self, blobs: Sequence[bytes]) -> dict[str, Array]:
        """Run single rows for an express lane; ModelError, or whatever the backend raises."""
        return self.model.run_packed(blobs)

    @property
    def traced(self) -> bool:
        """Whether an express lane has to call `trace` for what it answered."""
        return self._answers.tracer is not None

    def trace(self, asked: Iterable[tuple[Head, bytes, float, int]], began: float, seconds: float) -> None:
        """Trace requests that an express lane answered, as `Answers.trace_plain` says."""
        self._answers.trace_plain(asked, began, seconds, self.metrics)

    def answered_plainly(self, route: str, count: int, seconds: float) -> None:
        """An express lane has answered a batch of single rows, which ran for `seconds`."""
        self.metrics.batch.observe(count)
        self.metrics.computed += seconds * count
        self.metrics.express += count
        if isinstance(self._batcher, Batcher):
            self._batcher.ran(seconds, 1)
        self._answers.count_plain(self.metrics, route, count)

    def release(self, work: Work) -> Any:
        """End a work's life; its exchange, parted from it."""
        self._admission.release(work)
        exchange, work.exchange = work.exchange, None
        if work.key is not None and self._cache is not None:
            heir = self._cache.abandon(work.key, work)
            if heir is not None:
                self._batcher.submit(heir)
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
