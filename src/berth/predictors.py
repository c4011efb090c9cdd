"""The user's class: how it is found, checked and loaded, and the `@batched` decorator.

A predictor is an ordinary class: `load()` once (if it is there), then `predict(...)` with type hints for every
request. model.py wraps the result.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from berth.errors import ModelError
from berth.signature import Signature, signature_of

_Function = TypeVar("_Function", bound=Callable[..., Any])
_MARK = "__berth_batched__"


def batched(predict: _Function) -> _Function:
    """Mark a `predict` that takes lists and returns a list: requests that arrive together become one call."""
    setattr(predict, _MARK, True)
    return predict


@dataclass(frozen=True)
class Predictor:
    """A loaded predictor: its bound `predict`, its signature, and whether it takes lists."""

    predict: Callable[..., Any]
    signature: Signature
    batched: bool


def load_predictor(reference: str) -> Predictor:
    """Import "module:Class", read its signature, then make one and `load()` it."""
    predictor = find_predictor(reference)
    instance = predictor()
    predict = instance.predict
    rows = bool(getattr(predict, _MARK, False))
    signature = signature_of(predict, rows=rows)
    signature.schemas()  # a hint without a schema stops the start, not the first look at /docs
    load = getattr(instance, "load", None)
    if load is not None:
        load()
    return Predictor(predict, signature, rows)


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
    if inspect.iscoroutinefunction(predict) or inspect.isgeneratorfunction(predict):
        raise ModelError(f"{reference}: predict must be an ordinary method; async def and yield are not served")
