"""Where batches run: the interface, and the usual kind, one thread that loads the model and runs it.

The same thread does both, because some frameworks tie a model to the thread that made it; the event loop only parses
and writes. A batch that fails is halved until the guilty are found, so that one bad item fails only itself. batching.py
submits; results come back to the loop in one call per batch. async_executor.py and workers/ are the other kinds.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import os
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from berth.calls import running_from, running_until
from berth.errors import CallError, InputError
from berth.model import Model

Group = list[Any]  # the calls of one request


class FailureKind(enum.Enum):
    """Who is to blame for a call without an answer."""

    INPUT = "input"
    MODEL = "model"
    BUSY = "busy"  # another model, which this one calls, has no room or is not there
    LATE = "late"  # another model, which this one calls, took too long


NOBODYS_FAULT = (FailureKind.BUSY, FailureKind.LATE)  # smaller batches would fare no better


class Failed(msgspec.Struct, frozen=True):
    """A request that the model did not answer; `trace` is for the log, never for the caller."""

    kind: FailureKind
    text: str
    error_id: str
    trace: str


Outcome = list[Any] | Failed  # one answer per call of the request


class Finished(msgspec.Struct, frozen=True):
    """A batch that has run: one outcome per group, the seconds it took and how often the model was called.

    `busy` are the seconds that the thread worked, without its waits for the interpreter.
    """

    outcomes: list[Outcome]
    seconds: float
    busy: float
    runs: int


Done = Callable[[Finished], None]


class Sink(Protocol):
    """Where the items of a stream go; every method may be called from any thread."""

    @property
    def full(self) -> bool:
        """Whether `item` would wait."""

    def item(self, value: Any) -> bool:
        """One more item; waits while the caller reads slowly. False: nobody listens any more, so stop."""

    def close(self, failed: Failed | None) -> None:
        """There are no more items; `failed` says why when it is not the end."""


class Executor(Protocol):
    """Where one model runs. All methods are called on the event loop, and none of them waits."""

    capacity: int  # batches and streams that run at once

    @property
    def why_not_ready(self) -> str:
        """Why it takes no batches at the moment; empty when it does."""

    @property
    def why_dead(self) -> str:
        """Why it never will again; empty when it may."""

    def submit(self, groups: Sequence[Group], done: Done, wanted: Callable[[int], bool] | None = None) -> None:
        """Run a batch; `done` is called on the loop, later. `wanted`: whether anybody waits for a group any more."""

    def stream(self, call: Any, sink: Sink) -> None:
        """Run a predict that yields."""

    def collect(self) -> None:
        """Hand over what has come back, in a long turn of the loop: otherwise that happens at the turn's end."""

    async def close(self, patience: float) -> None:
        """End, after so many seconds for what still runs."""


def run_batch(model: Model, groups: Sequence[Group]) -> Finished:
    """Run the groups together; when that fails, in halves, down to the ones that are to blame."""
    started, worked = time.perf_counter(), time.thread_time()
    outcomes, runs = _run(model, groups)
    return Finished(outcomes, time.perf_counter() - started, time.thread_time() - worked, runs)


def _run(model: Model, groups: Sequence[Group]) -> tuple[list[Outcome], int]:
    try:
        return _run_together(model, groups), 1
    except BaseException as error:  # a predictor that calls sys.exit() must not end the thread
        failed = failure_of(error)
        if len(groups) == 1 or failed.kind in NOBODYS_FAULT:
            return [failed] * len(groups), 1
    middle = len(groups) // 2
    first, first_runs = _run(model, groups[:middle])
    began = running_from.get()
    running_from.set(began + sum(map(len, groups[:middle])))
    try:
        second, second_runs = _run(model, groups[middle:])
    finally:
        running_from.set(began)
    return first + second, 1 + first_runs + second_runs


def _run_together(model: Model, groups: Sequence[Group]) -> list[Outcome]:
    if len(groups) == 1:
        return [model.run(groups[0])]
    return cut(model.run([call for group in groups for call in group]), groups)


def cut(answers: list[Any], groups: Sequence[Group]) -> list[Outcome]:
    """The answers of a batch, request by request."""
    if len(answers) == len(groups):  # one call each, the usual case
        return [[answer] for answer in answers]
    outcomes: list[Outcome] = []
    start = 0
    for group in groups:
        stop = start + len(group)
        outcomes.append(answers[start:stop])
        start = stop
    return outcomes


def failure_of(error: BaseException) -> Failed:
    """An exception of the model as an outcome."""
    kind = FailureKind.INPUT if isinstance(error, InputError) else FailureKind.MODEL
    if isinstance(error, CallError):
        kind = {503: FailureKind.BUSY, 504: FailureKind.LATE}.get(error.status, kind)
    return Failed(kind, str(error), new_error_id(), "".join(traceback.format_exception(error)))


def new_error_id() -> str:
    """Twelve hexadecimal digits that tie an answer to a line of the log."""
    return os.urandom(6).hex()


class ThreadExecutor:
    """The model's thread. `load` first; `attach` when there is a loop; then batches and streams, one at a time."""

    capacity = 1
    why_not_ready = ""

    def __init__(self, patience: float = 0.0) -> None:
        self._patience = patience  # seconds that one run, or one item of a stream, may take; 0: any
        self._since = math.inf  # when the model began with what it does
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()
        self._back: deque[tuple[Done, Finished]] = deque()
        self._model: Model
        self._loop: asyncio.AbstractEventLoop

    @property
    def why_dead(self) -> str:
        """Why no answer is to be expected any more: the thread has ended, or its run does not."""
        if not self._thread.is_alive():
            return "the model's thread has ended"
        seconds = time.monotonic() - self._since
        return hung(seconds) if self._patience and seconds > self._patience else ""

    def load(self, load: Callable[[], Model]) -> Model:
        """Run `load` in the model's thread and wait for it, however long it takes; its exception is raised here."""
        loaded: queue.SimpleQueue[Model | BaseException] = queue.SimpleQueue()

        def job() -> None:
            try:
                self._model = load()
                loaded.put(self._model)
            except BaseException as error:
                loaded.put(error)

        self._jobs.put(job)
        result = loaded.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def attach(self) -> None:
        """Bring results to the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    def submit(self, groups: Sequence[Group], done: Done, wanted: Callable[[int], bool] | None = None) -> None:
        """Run a batch in the model's thread."""

        def job() -> None:
            running_until.set(wanted)
            self._back.append((done, run_batch(self._model, groups)))
            with contextlib.suppress(RuntimeError):  # the loop is closed: the drain gave this batch up
                self._loop.call_soon_threadsafe(self.collect)

        self._jobs.put(job)

    def collect(self) -> None:
        """Hand over the batches that have run."""
        while self._back:
            done, finished = self._back.popleft()
            done(finished)

    def stream(self, call: Any, sink: Sink) -> None:
        """Run a generator in the model's thread."""

        def job() -> None:
            failed: Failed | None = None
            running_until.set(sink)
            try:
                with contextlib.closing(self._model.stream(call)) as items:
                    for value in items:
                        self._since = math.inf  # a caller that reads slowly is no model that hangs
                        if not sink.item(value):
                            break
                        self._since = time.monotonic()
            except BaseException as error:
                failed = failure_of(error)
            sink.close(failed)

        self._jobs.put(job)

    async def close(self, patience: float) -> None:
        """Let the thread end after what is queued; it is a daemon, so nobody waits for one that hangs."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join, patience)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._since = time.monotonic()
            job()
            self._since = math.inf


def hung(seconds: float) -> str:
    """What is said of a model that computes and computes."""
    return f"the model has not come to an end for {seconds:.0f} s (BERTH_HANG_TIMEOUT_S)"
