"""Rows through the model: a bounded window between an input and an output, both in the input's order.

A row goes the way of a request from the batcher on: what is there runs together, a failing batch is halved until the
guilty row is found, a worker that dies is replaced and its rows run again. Reading and writing happen in threads, the
model where it always does. batch.py calls `score`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from berth.batching import Batcher, BatchSizes
from berth.config import ServingSettings
from berth.errors import InputError, ModelError
from berth.executor import Done, Executor, Failed, FailureKind, Finished, Group, Sink, failure_of
from berth.metrics import ModelMetrics
from berth.model import Model
from berth.scoring.inputs import Decode
from berth.scoring.output import Output
from berth.scoring.progress import Progress
from berth.scoring.sources import Record, Source
from berth.streams import StreamQueue
from berth.work import Queue, Work

LEAST_CHUNK = 64
TRACES = 3  # failures whose traceback is shown; the others have their line in the output
_NO_QUEUE = cast(Queue, None)  # nobody admits these works, and nobody waits for them with a deadline


class Row(msgspec.Struct, eq=False):
    """One row in flight: what was read, and its line of output once there is one. `queued` is the queue's to set."""

    record: Record
    call: Any = None
    line: bytes = b""
    failed: bool = False
    queued: float = 0.0


class _Gate:
    """An executor that takes nothing more once it is shut; `running` is what it still has."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.capacity = executor.capacity
        self.running = 0
        self.shut = False

    @property
    def why_not_ready(self) -> str:
        """See `Executor`."""
        return self._executor.why_not_ready

    @property
    def why_dead(self) -> str:
        """See `Executor`."""
        return self._executor.why_dead

    def submit(self, groups: Sequence[Group], done: Done, _: Callable[[int], bool] | None = None) -> None:
        """Run a batch, unless it is shut; then nothing becomes of it."""

        def finished(result: Finished) -> None:
            self.running -= 1
            done(result)

        if not self.shut:
            self.running += 1
            self._executor.submit(groups, finished)

    def stream(self, call: Any, sink: Sink) -> None:
        """Run a predict that yields, unless it is shut; whoever hears of its end counts `running` down."""
        if not self.shut:
            self.running += 1
            self._executor.stream(call, sink)

    def collect(self) -> None:
        """See `Executor`."""
        self._executor.collect()

    async def close(self, patience: float) -> None:
        """Its owner closes the executor."""


class Window:
    """The rows in flight. `submit` while there is room; `take_finished` gives them back in order."""

    def __init__(self, model: Model, executor: Executor, serving: ServingSettings, say: Callable[[str], None]) -> None:
        self._model = model
        self._gate = _Gate(executor)
        self._say = say
        self._traces = TRACES
        metrics = ModelMetrics("", "")
        sizes = BatchSizes(serving.max_batch_size)
        self._queue: Batcher | StreamQueue
        if model.streams:
            self._queue = StreamQueue(self._gate, metrics, self)
        else:
            self._queue = Batcher(model, self._gate, metrics, self._deliver, sizes)
        together = serving.max_batch_size if model.joins else 1
        self.chunk = max(together, LEAST_CHUNK)
        self._most_rows = max(2 * self.chunk, together * (executor.capacity + 2), executor.capacity + self.chunk)
        self._most_bytes = serving.max_queue_bytes
        self._rows: deque[Row] = deque()
        self._bytes = 0
        self._complete = False
        self._given_up = False
        self.trouble = ""
        self.news = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()

    @property
    def free_bytes(self) -> int:
        """How many bytes of input may still come in."""
        return self._most_bytes - self._bytes

    @property
    def stopped(self) -> bool:
        """Whether rows that come now would not be run."""
        return self._gate.shut

    @property
    def over(self) -> bool:
        """Whether no further row will be finished."""
        if self._given_up:
            return True
        return not self._rows if self._complete else self._gate.shut and not self._gate.running

    def complete(self) -> None:
        """No more rows come."""
        self._complete = True
        self.news.set()

    def shut(self) -> None:
        """Begin nothing more; what runs is finished."""
        self._gate.shut = True
        self._complete = False
        self.news.set()
        self.room.set()

    def give_up(self, why: str) -> None:
        """Wait for nothing more; `why` is empty when that is no trouble."""
        self._given_up = True
        self.trouble = self.trouble or why
        self._gate.shut = True
        self.news.set()
        self.room.set()

    def submit(self, row: Row) -> None:
        """Take a row in."""
        self._rows.append(row)
        self._bytes += row.record.size
        if row.record.problem:
            self._fail(row, row.record.problem)
            self.news.set()
        else:
            work = Work(_NO_QUEUE, [row.call], bytes, 0, exchange=row)
            row.call = None
            self._queue.submit(work)
        self._look_for_room()

    def take_finished(self) -> list[Row]:
        """The rows whose lines are next, if there are any."""
        rows: list[Row] = []
        while self._rows and self._rows[0].line:
            rows.append(self._rows.popleft())
        return rows

    def written(self, rows: Sequence[Row]) -> None:
        """Their lines are out: there is room again."""
        self._bytes -= sum(row.record.size for row in rows)
        self._look_for_room()

    def _look_for_room(self) -> None:
        if len(self._rows) + self.chunk <= self._most_rows and self._bytes < self._most_bytes:
            self.room.set()
        elif not self._gate.shut:
            self.room.clear()

    # What comes back from the model.

    def _deliver(self, works: list[Work], finished: Finished) -> None:
        for work, outcome in zip(works, finished.outcomes, strict=True):
            if isinstance(outcome, Failed):
                self._failed(work.exchange, outcome)
            else:
                self._answered(work.exchange, outcome)
        self.news.set()

    def stream_item(self, work: Work, value: Any) -> bool:
        """One item of a predictor that yields."""
        work.items.append(value)
        return True

    def stream_end(self, work: Work, failed: Failed | None) -> None:
        """The last item was there."""
        self._gate.running -= 1
        if failed is None:
            self._answered(work.exchange, work.items)
        else:
            self._failed(work.exchange, failed)
        self.news.set()

    def _answered(self, row: Row, answers: list[Any]) -> None:
        try:
            encoded = [self._model.encode(answer) for answer in answers]
        except Exception as error:
            self._failed(row, failure_of(error))
            return
        row.line = _line(row.record, b"output", b"[%s]" % b",".join(encoded) if self._model.streams else encoded[0])

    def _failed(self, row: Row, failed: Failed) -> None:
        gate = self._gate
        why = gate.why_dead or (gate.why_not_ready if failed.text == gate.why_not_ready else "")
        if why:
            self.give_up(why)  # not the row's fault: it is not done
            return
        self._fail(row, _reason(failed))
        if failed.kind is FailureKind.MODEL and self._traces:
            self._traces -= 1
            more = "" if self._traces else "\nfurther tracebacks are not shown"
            self._say(f"row {row.record.number} failed:\n{failed.trace.rstrip()}{more}")

    def _fail(self, row: Row, reason: str) -> None:
        row.failed = True
        row.line = _line(row.record, b"error", msgspec.json.encode(reason))


async def score(source: Source, decode: Decode, window: Window, output: Output, progress: Progress) -> None:
    """Run rows until the input ends or the window is shut; raises what reading and writing raise."""
    feeding = asyncio.ensure_future(_feed(source, decode, window))
    writing = asyncio.ensure_future(_write(window, output, progress))
    try:
        await asyncio.wait({feeding, writing}, return_when=asyncio.FIRST_EXCEPTION)
        for task in (writing, feeding):
            if task.done():
                task.result()
    finally:
        source.stop()
        window.give_up("")
        for task in (feeding, writing):
            task.cancel()
        await asyncio.gather(feeding, writing, return_exceptions=True)


async def _feed(source: Source, decode: Decode, window: Window) -> None:
    ended = False
    while not ended:
        await window.room.wait()
        if window.over:
            return
        rows, ended = await asyncio.to_thread(_take, source, decode, window.chunk, window.free_bytes)
        if window.stopped:
            return
        for row in rows:
            window.submit(row)
    window.complete()


def _take(source: Source, decode: Decode, count: int, size: int) -> tuple[list[Row], bool]:
    """At most so many rows and about so many bytes, and whether the input has ended."""
    rows: list[Row] = []
    while len(rows) < count and size > 0 and (source.ready or not rows):
        record = next(source, None)
        if record is None:
            return rows, True
        size -= record.size
        rows.append(_read(record, decode))
    return rows, False


def _read(record: Record, decode: Decode) -> Row:
    if not record.problem:
        try:
            return Row(record._replace(content=None), decode(record))
        except InputError as error:
            record = record._replace(problem=str(error))
    return Row(record._replace(content=None))


async def _write(window: Window, output: Output, progress: Progress) -> None:
    while True:
        rows = window.take_finished()
        if rows:
            await asyncio.to_thread(output.write, b"".join(row.line for row in rows))
            window.written(rows)
            progress.rows += len(rows)
            progress.failed += sum(row.failed for row in rows)
            progress.position = rows[-1].record.position
        elif window.over:
            if window.trouble:
                raise ModelError(window.trouble)
            return
        else:
            await _news(window)
        progress.tell()


async def _news(window: Window) -> None:
    """Wait for a row that is finished; now and then without one, so that the progress is told."""
    try:
        async with asyncio.timeout(1.0):
            await window.news.wait()
    except TimeoutError:
        return
    window.news.clear()


def _line(record: Record, name: bytes, value: bytes) -> bytes:
    file = b'"file":%s,' % msgspec.json.encode(record.file.encode("utf-8", "replace").decode()) if record.file else b""
    return b'{"row":%d,%s"%s":%s}\n' % (record.number, file, name, value)


def _reason(failed: Failed) -> str:
    """Why a row failed, in a line: for what `predict` raised, with the exception's name."""
    if failed.kind is FailureKind.INPUT:
        return failed.text
    first = failed.text.partition("\n")[0]
    for line in reversed(failed.trace.splitlines()):
        name = re.match(r"[A-Za-z_][\w.]*", line)
        if name and line == (f"{name[0]}: {first}" if first else name[0]):
            return f"{name[0]}: {failed.text}" if first else name[0]
    return failed.text
