"""Requests that have arrived together run as one batch.

The batcher waits for nothing by default:
it dispatches once per turn of the event loop, and while a batch runs, whatever arrives becomes the next one. Works of
different key (shape, dtype) run apart, oldest first. A request of more rows than a batch may have is cut into pieces
and its answer joined again. The application submits; the executor runs.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from time import perf_counter

import msgspec

from berth.executor import Executor, Failed, Finished, Group, Outcome, ThreadExecutor, failure_of, run_batch
from berth.giving_way import Bearing
from berth.metrics import ModelMetrics
from berth.model import Model
from berth.work import Work

QUICK_S = 0.002  # a model whose recent runs took less is run on the loop: the hand-over would cost more
WARM = 20  # runs before that is judged
HEAVY = 256 * 1024  # bytes of a request that cost more to be joined with others than running it alone does,
HEAVY_S = 0.0005  # where that takes no longer than this
_DOUBT = 1.05  # with each run of one request alone, if it took longer than the quickest
COMPUTES = 0.25  # of its time; such a model loses to a flood on the way there and back, too
CAUTION = 1.15  # with a wait that is told too short everybody is let in just too late to be answered in time
_WEIGHT = 0.1  # of one run in the average; one run of 10 ms sends the model back to its thread for a while


class BatchSizes(msgspec.Struct, frozen=True):
    """The most rows of a batch, and how long (seconds) one waits to reach them."""

    largest: int
    delay: float = 0.0


ALONE = BatchSizes(1)


class _Urgent(msgspec.Struct, frozen=True):
    """The group of works of one priority, and what may run with them."""

    priority: int
    key: Hashable


class _Whole:
    """A request that runs in pieces, and the outcomes that it has so far."""

    def __init__(self, work: Work, pieces: int) -> None:
        self.work = work
        self.outcomes: list[Outcome | None] = [None] * pieces
        self.seconds = 0.0


class _Piece(msgspec.Struct, frozen=True):
    """Which piece of which request a work stands for."""

    whole: _Whole
    index: int


class _Waiting:
    """Who still waits for a batch that runs, and until when."""

    __slots__ = ("_whole", "_works")

    def __init__(self, works: Sequence[Work], whole: Callable[[Work], Work]) -> None:
        self._works = works
        self._whole = whole

    def __call__(self, index: int) -> bool:
        return not self._whole(self._works[index]).done

    def traces(self) -> list[dict[str, str]]:
        return [self._whole(work).trace_headers for work in self._works for _ in work.calls]

    @property
    def deadline(self) -> float:
        return max((work.deadline for work in map(self._whole, self._works) if not work.done), default=0.0)


class Batcher:
    """The queue in front of the model."""

    def __init__(
        self,
        model: Model,
        executor: Executor,
        metrics: ModelMetrics,
        deliver: Callable[[list[Work], Finished], None],
        sizes: BatchSizes,
    ) -> None:
        self._model = model
        self._executor = executor
        self._metrics = metrics
        self._deliver = deliver
        self._steady = model.steady
        self._sizes = sizes if model.joins else ALONE
        self._max_rows = self._sizes.largest
        self._max_delay = self._sizes.delay
        self._loop = asyncio.get_running_loop()
        self._groups: dict[Hashable, deque[Work]] = {}
        self._pieces: dict[Work, _Piece] = {}  # of the works that wait or run, those that are pieces of others
        self._waiting = 0
        self._planned: asyncio.Handle | None = None
        self._running = 0
        self._running_rows = 0
        self._usual = 0.0 if model.steady and isinstance(executor, ThreadExecutor) else float("inf")
        self._warm = 0
        self._alone = float("inf")  # seconds that one request alone took, at best
        self._row_seconds = 0.0  # of the executor, for each row of recent batches
        self.bearing = Bearing()

    @property
    def idle_and_quick(self) -> bool:
        """Whether a batch could be run on the loop right now: nothing runs, nothing waits, and runs take no time."""
        return self._quick and not (self._running or self._groups or self._max_delay)

    @property
    def _quick(self) -> bool:
        """Whether runs take so little that they are not worth a hand-over."""
        return self._usual < QUICK_S and self._warm > WARM

    @property
    def expected_wait(self) -> float:
        """How long (seconds) one more row will take with what runs and waits now, by what recent rows took.

        0 while nobody has to wait: otherwise one slow run could keep out for ever what would show that it was one.
        """
        if self._running < self._executor.capacity and not self._waiting:
            return 0.0
        rows = self._waiting + self._running_rows + 1
        return rows * self._row_seconds / self._executor.capacity * CAUTION

    @property
    def waiting(self) -> int:
        """How many requests no batch has taken yet."""
        return sum(not work.done for group in self._groups.values() for work in group)

    def ran(self, seconds: float, runs: int) -> None:
        """A batch has run on the loop, here or in an express lane."""
        self._learn(seconds)
        self._metrics.ran(seconds, runs)

    def hurry(self) -> None:
        """Begin now what would begin at the end of this turn of the loop."""
        if self._planned is not None and not self._max_delay:
            self._planned.cancel()
            self._dispatch()

    def submit(self, work: Work) -> None:
        """Queue a work; it runs with whatever else arrives in this turn of the loop."""
        model = self._model
        key = None if self._steady else model.key(work.calls[0])
        if work.priority:
            key = _Urgent(work.priority, key)
        if not work.rows:
            work.rows = sum(map(model.rows, work.calls))
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = deque()
        if work.rows > self._max_rows and model.joins:
            group.extend(self._cut(work))
        else:
            group.append(work)
        self._waiting += work.rows
        if self._planned is None:
            if self._running < self._executor.capacity:
                self._plan()
        elif self._max_delay and self._waiting >= self._max_rows:
            self._planned.cancel()
            self._plan()

    def _cut(self, work: Work) -> list[Work]:
        """A work of too many rows as works of its pieces."""
        groups = self._model.cut(work.calls, self._max_rows)
        whole = _Whole(work, len(groups))
        works: list[Work] = []
        for index, calls in enumerate(groups):
            rows = min(self._max_rows, work.rows - index * self._max_rows)
            piece = Work(work.queue, calls, work.encode, work.input_status, rows=rows, arrived=work.arrived)
            self._pieces[piece] = _Piece(whole, index)
            works.append(piece)
        return works

    def _whole(self, work: Work) -> Work:
        """The work that a piece is of; any other is itself."""
        piece = self._pieces.get(work) if self._pieces else None
        return work if piece is None else piece.whole.work

    def _plan(self) -> None:
        if self._max_delay and self._waiting < self._max_rows:
            self._planned = self._loop.call_later(self._max_delay, self._dispatch)
        else:
            self._planned = self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._planned = None
        while self._running < self._executor.capacity:
            works = self._next_batch()
            if not works:
                return
            now = perf_counter()
            rows = sum([work.rows for work in works])
            self._metrics.queue.observe_all([now - work.arrived for work in works])
            self._metrics.batch.observe(rows)
            groups = [work.calls for work in works]
            if self._quick and rows <= self._max_rows:
                finished = run_batch(self._model, groups)
                self._finish(works, finished, finished.seconds)
                return
            self._running += 1
            self._running_rows += rows
            self._submit(works, groups)

    def _submit(self, works: list[Work], groups: list[Group]) -> None:
        refused, began = self._metrics.failures["REJECTED"], perf_counter()

        def done(finished: Finished) -> None:
            self._running -= 1
            self._running_rows -= sum([work.rows for work in works])
            rows = max(sum([work.rows for work in works]), 1)
            self._row_seconds += _WEIGHT * (finished.seconds / rows - self._row_seconds)
            flooded = self._metrics.failures["REJECTED"] > refused
            computes = finished.busy > COMPUTES * finished.seconds
            seconds = perf_counter() - began if computes else finished.seconds
            self.bearing.ran(seconds, finished.busy, rows, flooded=flooded)
            self._finish(works, finished, finished.busy)

        self._executor.submit(groups, done, _Waiting(works, self._whole))

    def _next_batch(self) -> list[Work]:
        """The oldest work and those that may run with it, up to the limit; those given up meanwhile are dropped."""
        while self._groups:
            key = min(self._groups, key=self._turn) if len(self._groups) > 1 else next(iter(self._groups))
            group = self._groups[key]
            works: list[Work] = []
            rows = 0
            limit = self._share()
            heavy = HEAVY if self._alone < HEAVY_S else math.inf
            while group and (not works or (rows + group[0].rows <= limit and group[0].size < heavy)):
                work = group.popleft()
                self._waiting -= work.rows
                if not work.done and (not self._pieces or not self._whole(work).done):
                    works.append(work)
                    rows += work.rows
                elif self._pieces:
                    self._pieces.pop(work, None)
            if not group:
                del self._groups[key]
            if works:
                return works
        return []

    def _share(self) -> int:
        """The most rows for the next batch: with several idle workers, what waits is shared among them."""
        idle = self._executor.capacity - self._running
        return self._max_rows if idle < 2 else min(self._max_rows, -(-self._waiting // idle))

    def _turn(self, key: Hashable) -> tuple[float, float]:
        return key.priority if isinstance(key, _Urgent) else float("inf"), self._groups[key][0].arrived

    def _finish(self, works: list[Work], finished: Finished, seconds: float) -> None:
        self._learn(seconds)
        if len(works) == 1 and self._usual < math.inf:
            self._alone = min(seconds, self._alone * _DOUBT)
        self._metrics.ran(finished.seconds, finished.runs)
        if self._groups and self._planned is None:
            self._plan()
        if self._pieces:
            works, finished = self._without_pieces(works, finished)
        if works:
            self._deliver(works, finished)

    def _without_pieces(self, works: list[Work], finished: Finished) -> tuple[list[Work], Finished]:
        """What is to be delivered: whole works, and pieces only as the wholes that they complete."""
        whole: list[Work] = []
        outcomes: list[Outcome] = []
        for work, outcome in zip(works, finished.outcomes, strict=True):
            piece = self._pieces.pop(work, None)
            if piece is None:
                whole.append(work)
                outcomes.append(outcome)
            elif (joined := self._join(piece, outcome, finished.seconds)) is not None:
                self._deliver([piece.whole.work], joined)
        return whole, Finished(outcomes, finished.seconds, finished.busy, finished.runs)

    def _join(self, piece: _Piece, outcome: Outcome, seconds: float) -> Finished | None:
        """A piece has run: the whole's outcome, if this decides it."""
        whole = piece.whole
        if whole.work.done:
            return None
        whole.seconds += seconds
        whole.outcomes[piece.index] = outcome
        if isinstance(outcome, Failed):
            return Finished([outcome], whole.seconds, whole.seconds, 0)
        answers = [found for found in whole.outcomes if isinstance(found, list)]
        if len(answers) < len(whole.outcomes):
            return None
        try:
            joined: Outcome = self._model.joined(answers)
        except Exception as error:
            joined = failure_of(error)
        return Finished([joined], whole.seconds, whole.seconds, 0)

    def _learn(self, seconds: float) -> None:
        self._usual += _WEIGHT * (seconds - self._usual) if self._steady else 0.0
        self._warm += 1
