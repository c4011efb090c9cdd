"""A loaded model: what the executor runs and what the protocols ask about.

Two kinds, one face: `TensorModel` wraps a backend (one call carries whole arrays, and the rows of several calls are
joined), `PredictorModel` wraps the user's class (one call is one set of keyword arguments). A V2 request reaches both
as named tensors; how those become calls, and answers become tensors, is the model's business.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from berth.backends.base import Backend, Options, load_backend
from berth.config import ModelSettings
from berth.errors import InputError, ModelError
from berth.predictors import Predictor, load_predictor
from berth.rows import RowCodec
from berth.signature import Call, Signature, signature_of_tensors
from berth.tensors import Array, TensorSpec


class Model(Protocol):
    """What is served.

    `joins`: calls of different requests may run together. `steady`: the time of a run depends on nothing but its rows.
    `rowwise`: each row of a V2 tensor is a call of its own.
    """

    signature: Signature
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    joins: bool
    steady: bool
    rowwise: bool

    def key(self, call: Call) -> Hashable:
        """Calls with equal keys may run together."""

    def rows(self, call: Call) -> int:
        """How many rows a call counts for in a batch."""

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """One answer per call; raises when any of them fails."""

    def prepare(self, call: Call) -> Call:
        """A decoded native call, ready to run; InputError when its values do not fit each other."""

    def calls_of(self, tensors: dict[str, Array]) -> list[Call]:
        """The calls that one V2 request stands for; InputError when the values do not fit the signature."""

    def tensors_of(self, answers: Sequence[Any]) -> dict[str, Array]:
        """The tensors that answer one V2 request."""


class TensorModel:
    """A backend's model: a call is a dict of arrays."""

    def __init__(self, backend: Backend) -> None:
        self.platform = backend.platform
        self.rowwise = False
        self.inputs = tuple(backend.inputs)
        self.outputs = tuple(backend.outputs)
        self.joins = backend.joins_rows
        self.signature = signature_of_tensors(self.inputs, self.outputs)
        self._infer = backend.infer
        self._several = len(self.inputs) > 1
        self._first = self.inputs[0].name
        self.steady = self.joins and all(-1 not in item.shape[1:] and not item.optional for item in self.inputs)

    def key(self, call: Call) -> Hashable:
        """Names and trailing shapes; nothing where the model leaves no choice."""
        if self.steady:
            return None
        return tuple((name, None if value is None else value.shape[1:]) for name, value in call.items())

    def rows(self, call: Call) -> int:
        """The length of axis 0 where it is the batch."""
        return len(call[self._first]) if self.joins else 1

    def run(self, calls: Sequence[Call]) -> list[dict[str, Array]]:
        """One inference; calls are joined along axis 0 and the answer is cut again."""
        if len(calls) == 1:
            return [self._infer(calls[0])]
        counts = [len(call[self._first]) for call in calls]
        joined = {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
        answer = self._infer(joined)
        total = sum(counts)
        for name, array in answer.items():
            if len(array) != total:
                raise ModelError(f"output {name!r}: expected {total} rows for {total} rows of input, got {len(array)}")
        return _cut(answer, counts)

    def prepare(self, call: Call) -> Call:
        """Without the optional tensors that are absent; the others agree on the number of rows."""
        return self.calls_of({name: value for name, value in call.items() if value is not None})[0]

    def calls_of(self, tensors: dict[str, Array]) -> list[Call]:
        """One call with all the arrays, which agree on the number of rows."""
        if self._several and self.joins:
            counts = {name: len(array) for name, array in tensors.items()}
            if len(set(counts.values())) > 1:
                raise InputError(f"all inputs need the same number of rows, got {counts}")
        return [tensors]

    def tensors_of(self, answers: Sequence[Any]) -> dict[str, Array]:
        """The one answer, as it is."""
        tensors: dict[str, Array] = answers[0]
        return tensors


class PredictorModel:
    """The user's class: a call is the keyword arguments of `predict`."""

    platform = "berth_python"

    def __init__(self, predictor: Predictor) -> None:
        self.signature = predictor.signature
        self.joins = predictor.batched
        self.steady = False
        self.rowwise = True
        self._codec = RowCodec(predictor.signature)
        self.inputs = self._codec.inputs
        self.outputs = self._codec.outputs
        self._predict = predictor.predict
        self._names = tuple(item.name for item in self.signature.inputs)

    def key(self, call: Call) -> Hashable:
        """The dtypes and shapes of the arrays among the arguments."""
        return tuple((value.dtype, value.shape) if isinstance(value, np.ndarray) else None for value in call.values())

    def rows(self, call: Call) -> int:
        """Each call counts for one."""
        return 1

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Call by call, or all at once for a `@batched` predict."""
        if not self.joins:
            return [self._predict(**call) for call in calls]
        answers = self._predict(**{name: [call[name] for call in calls] for name in self._names})
        if not isinstance(answers, list | tuple | np.ndarray) or len(answers) != len(calls):
            got = f"{len(answers)} answers" if hasattr(answers, "__len__") else type(answers).__name__
            raise ModelError(f"a @batched predict returns one answer per item: expected {len(calls)}, got {got}")
        return list(answers)

    def prepare(self, call: Call) -> Call:
        """As it is: the signature has checked it."""
        return call

    def calls_of(self, tensors: dict[str, Array]) -> list[Call]:
        """One call per row."""
        return self._codec.calls(tensors)

    def tensors_of(self, answers: Sequence[Any]) -> dict[str, Array]:
        """One row per answer."""
        return self._codec.tensors(answers)


def load_model(settings: ModelSettings) -> Model:
    """Load what the settings name; ModelError, or whatever the user's own `load` raises."""
    if settings.predictor:
        return PredictorModel(load_predictor(settings.predictor))
    options = Options(settings.threads, settings.options)
    return TensorModel(load_backend(settings.format, Path(settings.weights), options))


def _cut(answer: Mapping[str, Array], counts: Sequence[int]) -> list[dict[str, Array]]:
    if len(counts) == sum(counts):  # one row each, the usual case: iterating is cheaper than slicing
        rows = zip(*(array[:, np.newaxis] for array in answer.values()), strict=True)
        return [dict(zip(answer, row, strict=True)) for row in rows]
    pieces: list[dict[str, Array]] = []
    start = 0
    for count in counts:
        stop = start + count
        pieces.append({name: array[start:stop] for name, array in answer.items()})
        start = stop
    return pieces
