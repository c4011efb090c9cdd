"""A predictor's way to the other models of its server: `berth.use_model("name")` in `load`, then calls in `predict`.

A handle speaks through whatever its own model runs on: chain.py for models in the server's process, workers/asking.py
in a worker, local_calls.py for commands without a server. A call waits in the other model's queue like any request, and
no longer than somebody still waits for the caller's own answer. What a model may call is known once it is loaded, which
is how circles are found before they can lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import msgspec

from berth.errors import CallError, InputError, ModelError

Target = tuple[str, str | None]  # name, and version (None: the latest)


class Question(msgspec.Struct, frozen=True):
    """What a predictor asks of another model: the keyword arguments of its `predict`; `trace` continues its trace."""

    name: str
    version: str | None
    inputs: dict[str, Any]
    trace: dict[str, str] = {}


class Told(msgspec.Struct, frozen=True):
    """The answer to a question; or why there is none, with the status that a caller from outside would have seen."""

    value: Any = None
    status: int = 200
    error: str = ""

    def unwrap(self) -> Any:
        """The answer; InputError for bad input, CallError for everything else."""
        if self.status == 200:
            return self.value
        if self.status in (400, 422):
            raise InputError(self.error)
        raise CallError(self.error, self.status)


@runtime_checkable
class Until(Protocol):
    """Something that knows until when (seconds on the performance counter) somebody waits for what runs now."""

    @property
    def deadline(self) -> float:
        """The latest of those who still wait; in the past when nobody does."""


class Caller(Protocol):
    """What the handles of one model speak through."""

    targets: list[Target]

    def call(self, question: Question) -> Any:
        """Ask and wait; InputError or CallError."""

    async def call_async(self, question: Question) -> Any:
        """The same without blocking the event loop."""


_loading: ContextVar[Caller | None] = ContextVar("loading", default=None)
running_until: ContextVar[object] = ContextVar("running_until", default=None)  # the executors set it to an `Until`
running_from: ContextVar[int] = ContextVar("running_from", default=0)  # the first call of a part of a failing batch


class ModelHandle:
    """Another model of the same server."""

    def __init__(self, caller: Caller, name: str, version: str | None) -> None:
        self._caller = caller
        self._name = name
        self._version = version

    def predict(self, **inputs: Any) -> Any:
        """Its answer: what its `predict` returns, a dict of arrays for a model file, a list for one that yields.

        InputError when it refuses the input; CallError when it fails, is overloaded or not there, or takes too long.
        """
        return self._caller.call(self._question(inputs))

    async def predict_async(self, **inputs: Any) -> Any:
        """The same for an `async def predict`, which goes on with other requests meanwhile."""
        return await self._caller.call_async(self._question(inputs))

    def _question(self, inputs: dict[str, Any]) -> Question:
        if _loading.get() is not None:
            raise ModelError(f"model {self._name!r} was called in load; call other models in predict")
        return Question(self._name, self._version, inputs, trace_headers())


def use_model(name: str, version: str | None = None) -> ModelHandle:
    """A handle to another model of the same server, for `load` to keep; without a version the one loaded last."""
    caller = _loading.get()
    if caller is None:
        raise ModelError(f"berth.use_model({name!r}) outside of load: get it in load, and call it in predict")
    caller.targets.append((name, version))
    return ModelHandle(caller, name, version)


@contextmanager
def loading(caller: Caller) -> Iterator[None]:
    """While a model is loaded: handles that it gets speak through `caller`."""
    token = _loading.set(caller)
    try:
        yield
    finally:
        _loading.reset(token)


@runtime_checkable
class Traced(Protocol):
    """Something that knows the traces of the requests that run now."""

    def traces(self) -> list[dict[str, str]]:
        """For each call of the batch the headers that continue its trace; empty for one that is of no trace."""


def trace_headers(index: int = 0) -> dict[str, str]:
    """W3C `traceparent` and `tracestate` of the request that runs, for what `predict` sends to other services.

    Empty for a request that is of no trace. `index`: which of the calls that a `@batched` predict was given.
    """
    running = running_until.get()
    found = running.traces() if isinstance(running, Traced) else []
    index += running_from.get()
    return found[index] if index < len(found) else {}


def current_deadline() -> float:
    """Until when somebody waits for what this thread or coroutine runs; infinity where that is not known."""
    until = running_until.get()
    return until.deadline if isinstance(until, Until) else float("inf")
