"""A worker process: loads the model, then answers one batch after another until the server closes the connection.

template.py forks it; `run_worker` is all that it does. The server's messages are in messages.py.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import pickle
import socket
import traceback
from collections.abc import Callable, Generator
from typing import Any

import msgspec

from berth import memory
from berth.calls import Question, Target, Told, loading, running_until
from berth.errors import ModelError
from berth.executor import Failed, FailureKind, Group, Outcome, failure_of, new_error_id, run_batch
from berth.model import Model
from berth.predictors import wait_here
from berth.tensors import TensorSpec
from berth.workers.asking import WorkerCaller
from berth.workers.messages import (
    ASK,
    ITEM,
    LOAD_FAILED,
    LOADED,
    NEXT,
    RAN,
    STREAM,
    STREAMED,
    Buffer,
    Frame,
    Outgoing,
    Reader,
    TracedWork,
    pack,
)
from berth.workers.shared_memory import Arena, Inbox, Outbox


class Description(msgspec.Struct, frozen=True):
    """What the server has to know of a model that it has not loaded itself."""

    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    joins: bool
    targets: tuple[Target, ...] = ()  # the models that it calls


class LoadFailure(msgspec.Struct, frozen=True):
    """Why a model did not load: the exception where it can travel, and its traceback."""

    error: Exception | None
    text: str
    trace: str


class _Line:
    """The worker's end of the connection; blocking."""

    def __init__(self, connection: socket.socket, arena: Arena) -> None:
        self._socket = connection
        self._reader = Reader(connection)
        self._inbox = Inbox(arena.requests, writable=True)
        self._outbox = Outbox(arena.answers)
        self.owed: Frame | None = None  # to an item: whether another is wanted, when a question had to wait for it
        self.item_sent = False

    def receive(self) -> Frame | None:
        """The next message; None when the server has closed the connection."""
        while True:
            try:
                frame = self._reader.read()
            except (EOFError, ConnectionError):
                return None
            if frame is not None:
                self._outbox.keep_only(frame.held)
                return frame

    def open(self, frame: Frame) -> Any:
        """The value; its large arrays are views of the arena, writable and the model's own."""
        return frame.value(self._inbox)

    def pack(self, kind: int, sequence: int, value: Any) -> Outgoing:
        """A message, its large buffers copied: the value may be forgotten now."""
        message = pack(kind, sequence, value, self._outbox)
        message.copy(self._outbox)
        message.copies.clear()
        return message

    def send(self, message: Outgoing) -> None:
        """Send it all. The model's arrays should be forgotten by now, or their places count as held."""
        with contextlib.suppress(ConnectionError):  # `receive` will see the end
            for part in message.frame(self._inbox.held()):
                _send_all(self._socket, part)

    def ask(self, sequence: int, question: Question) -> Told:
        """Ask the server for another model's answer, in the middle of a batch or stream."""
        if self.item_sent:  # the sides take turns: first hear whether another item is wanted
            self.owed, self.item_sent = self.receive(), False
        message = self.pack(ASK, sequence, question)
        del question
        self.send(message)
        frame = self.receive()
        return self.open(frame) if frame is not None else Told(None, 503, "the server has gone")


def _send_all(connection: socket.socket, part: Buffer) -> None:
    if part:
        connection.sendall(part)


def run_worker(connection: socket.socket, arena: Arena) -> None:
    """Serve until the connection is closed. Only the process's own death ends it otherwise."""
    line = _Line(connection, arena)
    caller = WorkerCaller()
    order = line.receive()
    if order is None:
        return
    model = _load(line, order, caller)
    if model is None:
        return
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not look at it again
    memory.release()
    while (frame := line.receive()) is not None:
        caller.ask = functools.partial(line.ask, frame.sequence)
        answer = _stream(line, model, frame) if frame.kind == STREAM else _answer(line, model, frame)
        caller.ask = None
        line.send(answer)
        del frame, answer


def _load(line: _Line, order: Frame, caller: WorkerCaller) -> Model | None:
    try:
        load: Callable[[], Model] = line.open(order)
        with loading(caller):
            model = load()
    except BaseException as error:  # sys.exit() in a model's load() is a failure like any other
        line.send(line.pack(LOAD_FAILED, order.sequence, _load_failure(error)))
        return None
    inputs = tuple(model.inputs)
    description = Description(model.platform, inputs, tuple(model.outputs), model.joins, tuple(caller.targets))
    line.send(line.pack(LOADED, order.sequence, description))
    return model


def _load_failure(error: BaseException) -> LoadFailure:
    trace = "".join(traceback.format_exception(error))
    text = f"{type(error).__name__}: {error}"
    try:
        whole = pickle.loads(pickle.dumps(error))  # noqa: S301  our own, to see whether it can travel
    except Exception:
        whole = None
    return LoadFailure(whole if isinstance(whole, Exception) else None, text, trace)


def _answer(line: _Line, model: Model, frame: Frame) -> Outgoing:
    """Run one batch; the answer's message holds none of the model's arrays any more."""
    sequence = frame.sequence
    try:
        groups: list[Group] = _work_of(line.open(frame))
    except Exception as error:
        return line.pack(RAN, sequence, _unreadable(error))
    finished = run_batch(model, groups)
    facts = (finished.seconds, finished.busy, finished.runs)
    try:
        return line.pack(RAN, sequence, (finished.outcomes, *facts))
    except Exception:
        return line.pack(RAN, sequence, ([_that_travels(outcome) for outcome in finished.outcomes], *facts))


def _work_of(value: Any) -> Any:
    """What is to be run; whoever runs it may ask for its traces."""
    traced = isinstance(value, TracedWork)
    running_until.set(value if traced else None)
    return value.work if traced else value


def _stream(line: _Line, model: Model, frame: Frame) -> Outgoing:
    """Send the items of one call; its end is the answer. While an item is on its way the next one is computed."""
    failed: Failed | None = None
    try:
        with contextlib.closing(_iterate(model.stream(_work_of(line.open(frame))))) as items:
            for value in items:
                if not _asks_on(line):
                    break
                message = line.pack(ITEM, frame.sequence, value)
                del value
                line.send(message)
                line.item_sent = True
    except BaseException as error:
        failed = failure_of(error)
    _asks_on(line)
    return line.pack(STREAMED, frame.sequence, failed)


def _iterate(items: Any) -> Generator[Any, None, None]:
    """The items of an iterator of either kind."""
    if not hasattr(items, "__aiter__"):
        with contextlib.closing(items):
            yield from items
        return
    try:
        while True:
            yield wait_here(_next(items))
    except StopAsyncIteration:
        return
    finally:
        wait_here(items.aclose())


async def _next(items: Any) -> Any:
    return await anext(items)


def _asks_on(line: _Line) -> bool:
    """Whether the item that was sent last was not the last that is wanted; waits to be told."""
    order, line.owed = line.owed, None
    if line.item_sent:
        order, line.item_sent = line.receive(), False
    elif order is None:
        return True  # nothing was sent
    return order is not None and order.kind == NEXT


def _unreadable(error: Exception) -> Any:
    trace = "".join(traceback.format_exception(error))
    return Failed(FailureKind.MODEL, "the input could not be handed to the worker process", new_error_id(), trace)


def _that_travels(outcome: Outcome) -> Outcome:
    try:
        pickle.dumps(outcome, protocol=5)
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        text = str(ModelError(f"predict returned what cannot leave its worker process: {error}"))
        return Failed(FailureKind.MODEL, text, new_error_id(), trace)
    return outcome
