"""The user's class: how it is found, checked and loaded, and the `@batched` decorator.

A predictor is an ordinary class: `load()` once (if it is there), then `predict(...)` with type hints for every
request. model.py wraps the result.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import enum
import functools
import importlib
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from berth.errors import ModelError
from berth.signature import Signature, signature_of

_Function = TypeVar("_Function", bound=Callable[..., Any])
_MARK = "__berth_batched__"


def batched(predict: _Function) -> _Function:
    """Mark a `predict` that takes lists and returns a list: requests that arrive together become one call."""
    setattr(predict, _MARK, True)
    return predict


class Kind(enum.Enum):
    """What kind of function `predict` is."""

    PLAIN = "def ... return"
    STREAM = "def ... yield"
    ASYNC = "async def ... return"
    ASYNC_STREAM = "async def ... yield"

    @property
    def streams(self) -> bool:
        """Whether it yields."""
        return self in (Kind.STREAM, Kind.ASYNC_STREAM)

    @property
    def asynchronous(self) -> bool:
        """Whether it runs on an event loop."""
        return self in (Kind.ASYNC, Kind.ASYNC_STREAM)


Wait = Callable[[Coroutine[Any, Any, Any]], Any]


class Predictor(msgspec.Struct, frozen=True):
    """A loaded predictor: its bound `predict`, its signature, its kind, and whether it takes lists.

    `wait` runs a coroutine of it to its end where no event loop runs.
    """

    predict: Callable[..., Any]
    signature: Signature
    kind: Kind
    batched: bool
    wait: Wait


def load_predictor(reference: str, wait: Wait) -> Predictor:
    """Import "module:Class", read its signature, then make one and `load()` it."""
    predictor = find_predictor(reference)
    instance = predictor()
    predict = instance.predict
    rows = takes_lists(predict)
    kind = kind_of(predict)
    signature = signature_of(predict, rows=rows, streams=kind.streams)
    signature.schemas()  # a hint without a schema stops the start, not the first look at /docs
    load = getattr(instance, "load", None)
    if inspect.iscoroutinefunction(load):
        if not kind.asynchronous:
            raise ModelError(f"{reference}: load is async def and predict is not; make both the same")
        wait(load())
    elif load is not None:
        load()
    return Predictor(predict, signature, kind, rows, wait)


@functools.cache
def _runner() -> asyncio.Runner:
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner


def wait_here(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on the one loop that commands have for it."""
    return _runner().run(work, context=contextvars.copy_context())


def kind_of(predict: Callable[..., Any]) -> Kind:
    """The kind of a predict method."""
    if inspect.isasyncgenfunction(predict):
        return Kind.ASYNC_STREAM
    if inspect.iscoroutinefunction(predict):
        return Kind.ASYNC
    return Kind.STREAM if inspect.isgeneratorfunction(predict) else Kind.PLAIN


def takes_lists(predict: Callable[..., Any]) -> bool:
    """Whether it is marked as @batched."""
    return bool(getattr(predict, _MARK, False))


def find_predictor(reference: str) -> type[Any]:
    """The class that "module:Class" names; ModelError says which half is wrong."""
    module_name, _, class_name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.split(".")[0] == error.name.split(".")[0]:
            raise ModelError(f"BERTH_PREDICTOR: no module {error.name!r} on the Python path") from error
        raise
    predictor = getattr(module, class_name, None)
    if not inspect.isclass(predictor):
        classes = sorted(name for name, value in vars(module).items() if inspect.isclass(value))
        raise ModelError(f"BERTH_PREDICTOR: {module_name} has no class {class_name!r}; it has {', '.join(classes)}")
    _check_predict(reference, predictor)
    return predictor


def _check_predict(reference: str, predictor: type[Any]) -> None:
    predict = getattr(predictor, "predict", None)
    if not callable(predict):
        raise ModelError(f"{reference} has no predict method")
    if takes_lists(predict) and kind_of(predict).streams:
        raise ModelError(f"{reference}: a @batched predict returns a list; one that yields takes one call at a time")
