"""A loaded model: what the executor runs and what the protocols ask about.

Two kinds, one face: `TensorModel` wraps a backend (one call carries whole arrays, and the rows of several calls are
joined), `PredictorModel` wraps the user's class (one call is one set of keyword arguments). A V2 request reaches both
as named tensors; how those become calls, and answers become tensors, is the model's business.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from berth.backends.base import Backend, Options, load_backend
from berth.config import ModelSettings
from berth.errors import InputError, ModelError
from berth.predictors import Kind, Predictor, Wait, load_predictor, wait_here
from berth.rows import RowCodec
from berth.signature import Call, Signature, signature_of_tensors
from berth.tensors import Array, Packing, TensorBatch, TensorRows, TensorSpec


class Model(Protocol):
    """What is served.

    `joins`: calls of different requests may run together. `steady`: the time of a run depends on nothing but its rows.
    `rowwise`: each row of a V2 tensor is a call of its own. `packing`: a call may also be
    rows of its only input, packed as bytes. `streams`: an answer is several items, one after the other.
    """

    signature: Signature
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    joins: bool
    steady: bool
    rowwise: bool
    packing: Packing | None
    streams: bool

    def key(self, call: Any) -> Hashable:
        """Calls with equal keys may run together."""

    def rows(self, call: Any) -> int:
        """How many rows a call counts for in a batch."""

    def run(self, calls: Sequence[Any]) -> list[Any]:
        """One answer per call; raises when any of them fails."""

    async def run_async(self, calls: Sequence[Any]) -> list[Any]:
        """The same where predict is a coroutine, on the loop that loaded it."""

    def stream(self, call: Any) -> Any:
        """What predict yields: an iterator, or an asynchronous one."""

    def cut(self, calls: Sequence[Any], size: int) -> list[list[Any]]:
        """The calls of one request in pieces of at most so many rows; only where calls are joined."""

    def joined(self, answers: Sequence[list[Any]]) -> list[Any]:
        """The answers of the pieces as those of the whole request."""

    def run_packed(self, blobs: Sequence[bytes]) -> dict[str, Array]:
        """One inference of single rows, packed as `packing` says; only where there is a packing."""

    def prepare(self, call: Call) -> Call:
        """A decoded native call, ready to run; InputError when its values do not fit each other."""

    def calls_of(self, tensors: dict[str, Array]) -> list[Any]:
        """The calls that one V2 request stands for; InputError when the values do not fit the signature."""

    def tensors_of(self, answers: Sequence[Any]) -> dict[str, Array]:
        """The tensors that answer one V2 request."""

    def encode(self, answer: Any) -> bytes:
        """One answer as native JSON."""


class TensorModel:
    """A backend's model: a call is a dict of arrays, or rows packed as bytes where `packing` says how.

    With `sizes` every inference has one of these numbers of rows: the last row is repeated, and cut from the answer.
    """

    streams = False

    def __init__(self, backend: Backend, sizes: Sequence[int] = ()) -> None:
        self.platform = backend.platform
        self.rowwise = False
        self.inputs = tuple(backend.inputs)
        self.outputs = tuple(backend.outputs)
        self.joins = backend.joins_rows
        self.signature = signature_of_tensors(self.inputs, self.outputs)
        self._infer = backend.infer
        self._sizes = tuple(sizes) if self.joins else ()
        self._several = len(self.inputs) > 1
        self._first = self.inputs[0].name
        self.steady = self.joins and all(-1 not in item.shape[1:] and not item.optional for item in self.inputs)
        self.packing = Packing.of(self.inputs[0]) if self.steady and not self._several else None

    def key(self, call: Any) -> Hashable:
        """Names and trailing shapes; nothing where the model leaves no choice."""
        if self.steady:
            return None
        return tuple((name, None if value is None else value.shape[1:]) for name, value in call.items())

    def rows(self, call: Any) -> int:
        """The length of axis 0 where it is the batch."""
        if self.packing is not None and type(call) is bytes:
            return len(call) // self.packing.row_bytes
        return len(call[self._first]) if self.joins else 1

    def run(self, calls: Sequence[Any]) -> list[TensorRows]:
        """One inference; calls are joined along axis 0, and each answer is its rows of the batch."""
        if len(calls) == 1 and type(calls[0]) is dict:
            call = calls[0]
            answer = self._infer_rows(call, len(call[self._first])) if self._sizes else self._infer(call)
            return [TensorRows(TensorBatch(answer), 0, None)]
        joined = self._join(calls)
        total = len(joined[self._first])
        batch = TensorBatch(self._infer_rows(joined, total))
        if total == len(calls):  # one row each, the usual case
            return [TensorRows(batch, start, start + 1) for start in range(total)]
        counts = [self.rows(call) for call in calls]
        stops = list(itertools.accumulate(counts))
        return [TensorRows(batch, stop - count, stop) for count, stop in zip(counts, stops, strict=True)]

    def run_packed(self, blobs: Sequence[bytes]) -> dict[str, Array]:
        """One inference of single rows, packed as `packing` says; the answer's rows are in their order."""
        assert self.packing is not None
        return self._infer_rows({self._first: self.packing.array(blobs)}, len(blobs))

    def _infer_rows(self, arrays: dict[str, Array], total: int) -> dict[str, Array]:
        rows = allowed_size(total, self._sizes) if self._sizes else total
        if rows != total:
            arrays = {name: _lengthened(array, rows) for name, array in arrays.items()}
        answer = self._infer(arrays)
        for name, array in answer.items():
            if len(array) != rows:
                raise ModelError(f"output {name!r}: expected {rows} rows for {rows} rows of input, got {len(array)}")
        return answer if rows == total else {name: array[:total] for name, array in answer.items()}

    def cut(self, calls: Sequence[Any], size: int) -> list[list[Any]]:
        """Rows of the only call."""
        (call,) = calls
        if type(call) is bytes:
            assert self.packing is not None
            step = size * self.packing.row_bytes
            return [[call[at : at + step]] for at in range(0, len(call), step)]
        starts = range(0, len(call[self._first]), size)
        return [[{name: array[at : at + size] for name, array in call.items()}] for at in starts]

    def joined(self, answers: Sequence[list[Any]]) -> list[Any]:
        """One answer with the rows of all."""
        pieces = [piece[0].arrays() for piece in answers]
        arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        return [TensorRows(TensorBatch(arrays), 0, None)]

    async def run_async(self, calls: Sequence[Any]) -> list[Any]:
        """Never called: a backend is no coroutine."""
        return self.run(calls)

    def stream(self, call: Any) -> Any:
        """Never called: a backend answers once."""
        raise NotImplementedError

    def _join(self, calls: Sequence[Any]) -> dict[str, Array]:
        if self.packing is None:
            return {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}
        blobs = [call if type(call) is bytes else call[self._first].tobytes() for call in calls]
        return {self._first: self.packing.array(blobs)}

    def prepare(self, call: Call) -> Call:
        """Without the optional tensors that are absent; the others agree on the number of rows."""
        calls = self.calls_of({name: value for name, value in call.items() if value is not None})
        prepared: Call = calls[0]
        return prepared

    def calls_of(self, tensors: dict[str, Array]) -> list[Any]:
        """One call with all the arrays, which agree on the number of rows."""
        if self._several and self.joins:
            counts = {name: len(array) for name, array in tensors.items()}
            if len(set(counts.values())) > 1:
                raise InputError(f"all inputs need the same number of rows, got {counts}")
        return [tensors]

    def tensors_of(self, answers: Sequence[Any]) -> dict[str, Array]:
        """The one answer, as it is."""
        rows: TensorRows = answers[0]
        return rows.arrays()

    def encode(self, answer: TensorRows) -> bytes:
        """Native JSON: an object of nested lists."""
        return self.signature.encode(answer.arrays())


class PredictorModel:
    """The user's class: a call is the keyword arguments of `predict`.

    With `sizes` a `@batched` predict gets lists of one of these lengths: its last item is repeated, and cut again.
    """

    platform = "berth_python"
    packing: Packing | None = None

    def __init__(self, predictor: Predictor, sizes: Sequence[int] = ()) -> None:
        self.signature = predictor.signature
        self.joins = predictor.batched
        self.steady = False
        self.rowwise = True
        self.streams = predictor.kind.streams
        self._sizes = tuple(sizes) if self.joins else ()
        self._codec = RowCodec(predictor.signature)
        self.inputs = self._codec.inputs
        self.outputs = self._codec.outputs
        self._predictor = predictor
        self._predict = predictor.predict
        self._names = tuple(item.name for item in self.signature.inputs)

    def key(self, call: Call) -> Hashable:
        """The dtypes and shapes of the arrays among the arguments."""
        return tuple((value.dtype, value.shape) if isinstance(value, np.ndarray) else None for value in call.values())

    def rows(self, call: Call) -> int:
        """Each call counts for one."""
        return 1

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Call by call, or all at once for a `@batched` predict; what yields gives a list."""
        if self._predictor.kind is not Kind.PLAIN:
            return self._run_to_the_end(calls)
        if not self.joins:
            return [self._predict(**call) for call in calls]
        padded = self._padded(calls)
        return self._checked(self._predict(**self._lists(padded)), len(padded))[: len(calls)]

    async def run_async(self, calls: Sequence[Call]) -> list[Any]:
        """All calls at once, or as lists for a `@batched` predict."""
        if not self.joins:
            return list(await asyncio.gather(*(self._predict(**call) for call in calls)))
        padded = self._padded(calls)
        return self._checked(await self._predict(**self._lists(padded)), len(padded))[: len(calls)]

    def cut(self, calls: Sequence[Any], size: int) -> list[list[Any]]:
        """So many calls each."""
        return [list(calls[at : at + size]) for at in range(0, len(calls), size)]

    def joined(self, answers: Sequence[list[Any]]) -> list[Any]:
        """All of them, in order."""
        return [answer for piece in answers for answer in piece]

    def _padded(self, calls: Sequence[Call]) -> Sequence[Call]:
        missing = allowed_size(len(calls), self._sizes) - len(calls) if self._sizes else 0
        # Copies: a predict that changes its input in place would change the last item several times.
        return [*calls, *(copy.deepcopy(calls[-1]) for _ in range(missing))] if missing else calls

    def run_packed(self, blobs: Sequence[bytes]) -> dict[str, Array]:
        """Never called: there is no packing."""
        raise NotImplementedError

    def stream(self, call: Call) -> Any:
        """What predict yields."""
        return self._predict(**call)

    def _run_to_the_end(self, calls: Sequence[Call]) -> list[Any]:
        kind = self._predictor.kind
        if kind is Kind.STREAM:
            return [list(self._predict(**call)) for call in calls]
        if kind is Kind.ASYNC:
            return list(self._predictor.wait(self.run_async(calls)))
        return [self._predictor.wait(_collect(self._predict(**call))) for call in calls]

    def _lists(self, calls: Sequence[Call]) -> dict[str, list[Any]]:
        return {name: [call[name] for call in calls] for name in self._names}

    def _checked(self, answers: Any, count: int) -> list[Any]:
        if not isinstance(answers, list | tuple | np.ndarray) or len(answers) != count:
            got = f"{len(answers)} answers" if hasattr(answers, "__len__") else type(answers).__name__
            raise ModelError(f"a @batched predict returns one answer per item: expected {count}, got {got}")
        return list(answers)

    def prepare(self, call: Call) -> Call:
        """As it is: the signature has checked it."""
        return call

    def calls_of(self, tensors: dict[str, Array]) -> list[Any]:
        """One call per row."""
        calls: list[Any] = self._codec.calls(tensors)
        return calls

    def tensors_of(self, answers: Sequence[Any]) -> dict[str, Array]:
        """One row per answer."""
        return self._codec.tensors(answers)

    def encode(self, answer: Any) -> bytes:
        """Native JSON: the return value."""
        return self.signature.encode(answer)


def allowed_size(rows: int, sizes: Sequence[int]) -> int:
    """The smallest of the sizes that takes so many rows; `rows` itself where none does, or where there are none."""
    return next((size for size in sizes if size >= rows), rows) if rows else 0


def _lengthened(array: Array, rows: int) -> Array:
    """The array with its last row repeated up to so many rows: a row that the model takes, unlike zeros perhaps."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


async def _collect(items: Any) -> list[Any]:
    return [item async for item in items]


def load_model(settings: ModelSettings, wait: Wait | None = None) -> Model:
    """Load what the settings name; ModelError, or whatever the user's own `load` raises.

    `wait` runs the coroutines of an asynchronous predictor; by default a loop of its own does.
    """
    sizes = settings.serving.batch_sizes
    if settings.predictor:
        return PredictorModel(load_predictor(settings.predictor, wait or wait_here), sizes)
    options = Options(settings.threads, settings.options)
    return TensorModel(load_backend(settings.format, Path(settings.weights), options), sizes)
