"""One thread that loads the model and runs it; the event loop only parses and writes.

The same thread does both, because some frameworks tie a model to the thread that made it. A batch that fails is run
again member by member, so that one bad item fails only itself. batching.py submits; results come back to the loop in
one call per batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from berth.errors import InputError
from berth.model import Model

Group = list[Any]  # the calls of one request


class FailureKind(enum.Enum):
    """Who is to blame for a call without an answer."""

    INPUT = "input"
    MODEL = "model"


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


def run_batch(model: Model, groups: Sequence[Group]) -> Finished:
    """Run the groups together; when that fails, one by one."""
    started, worked = time.perf_counter(), time.thread_time()
    runs = 1
    outcomes: list[Outcome]
    try:
        outcomes = _run_together(model, groups)
    except BaseException as error:  # a predictor that calls sys.exit() must not end the thread
        if len(groups) == 1:
            outcomes = [_failed(error)]
        else:
            outcomes = [_run_alone(model, group) for group in groups]
            runs += len(groups)
    return Finished(outcomes, time.perf_counter() - started, time.thread_time() - worked, runs)


def _run_together(model: Model, groups: Sequence[Group]) -> list[Outcome]:
    if len(groups) == 1:
        return [model.run(groups[0])]
    answers = model.run([call for group in groups for call in group])
    if len(answers) == len(groups):  # one call each, the usual case
        return [[answer] for answer in answers]
    outcomes: list[Outcome] = []
    start = 0
    for group in groups:
        stop = start + len(group)
        outcomes.append(answers[start:stop])
        start = stop
    return outcomes


def _run_alone(model: Model, group: Group) -> Outcome:
    try:
        return model.run(group)
    except BaseException as error:
        return _failed(error)


def _failed(error: BaseException) -> Failed:
    kind = FailureKind.INPUT if isinstance(error, InputError) else FailureKind.MODEL
    return Failed(kind, str(error), new_error_id(), "".join(traceback.format_exception(error)))


def new_error_id() -> str:
    """Twelve hexadecimal digits that tie an answer to a line of the log."""
    return os.urandom(6).hex()


class Executor:
    """The model's thread. `load` first, then `submit` batches; all methods are called by the event loop's thread."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def load(self, load: Callable[[], Model]) -> Model:
        """Run `load` in the model's thread and wait for it, however long it takes; its exception is raised here."""
        loaded: queue.SimpleQueue[Model | BaseException] = queue.SimpleQueue()

        def job() -> None:
            try:
                loaded.put(load())
            except BaseException as error:
                loaded.put(error)

        self._jobs.put(job)
        result = loaded.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def submit(
        self, model: Model, groups: Sequence[Group], loop: asyncio.AbstractEventLoop, done: Callable[[Finished], None]
    ) -> None:
        """Run a batch in the model's thread; `done` is called on the loop."""

        def job() -> None:
            finished = run_batch(model, groups)
            with contextlib.suppress(RuntimeError):  # the loop is closed: the drain gave this batch up
                loop.call_soon_threadsafe(done, finished)

        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            self._jobs.get()()
