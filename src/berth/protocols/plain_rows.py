"""Rows and columns of plain JSON: what the protocols that know no tensors send and expect.

A row is the value of the only input, or an object with the inputs by name; a column holds one input of all rows.
`{"b64": ...}` stands for bytes, both ways. An answer's row is the value of the only output, or an object with the
outputs by name. tfserving.py and hosted.py call this.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from berth.errors import InputError
from berth.files import File
from berth.hints import fields_of
from berth.model import Model
from berth.protocols.nesting import check_nesting
from berth.rows import Cell, cell_of
from berth.served import ServedModel
from berth.tensors import Array

_BINARY_SUFFIX = "_bytes"  # TensorFlow's mark for outputs that hold bytes


def read_json(body: bytes) -> Any:
    """A body as JSON, with NaN and infinities as Python's json reads them; InputError."""
    check_nesting(body)
    try:
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            value = json.loads(body)
            if b"\\u" in body:
                json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
            return value
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not valid JSON: {error}") from error


def read_object(body: bytes) -> dict[str, Any]:
    """A body as a JSON object; InputError."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise InputError(f"expected a JSON object, got {type(value).__name__}")
    return value


class PlainRows:
    """One model, asked in rows or columns of plain JSON."""

    def __init__(self, served: ServedModel) -> None:
        model = served.model
        self._model: Model = model
        self.names = tuple(item.name for item in model.signature.inputs)
        self._required = [item.name for item in model.signature.inputs if item.required]
        cells = {item.name: cell_of(item.type) for item in model.signature.inputs}
        texts = [spec.name for spec in model.inputs if spec.datatype == "BYTES"]
        self._wrapped = {name: cells[name] for name in texts if cells[name] is not Cell.JSON}
        self._fields = list(fields_of(model.signature.output)) if model.rowwise else []

    # -- requests -----------------------------------------------------------------------------------------------------

    def calls_of_rows(self, rows: Any, shared: Mapping[str, Any] | None = None, where: str = "instances") -> list[Any]:
        """The calls for a list of rows; `shared` are inputs that are the same for all of them. InputError."""
        if not isinstance(rows, list) or not rows:
            raise InputError(f"{where}: expected a list of at least one row")
        shared = shared or {}
        unknown = sorted(set(shared) - set(self.names))
        if unknown:
            raise InputError(f"parameters: the model has no input {unknown[0]!r}; it has {', '.join(self.names)}")
        named = [self.named(row, f"{where}[{index}]", shared) for index, row in enumerate(rows)]
        if self._model.rowwise:
            return [self.call(inputs, f"{where}[{index}]") for index, inputs in enumerate(named)]
        return [self.call(_columns(named, where), where)]

    def calls_of_columns(self, columns: Any) -> list[Any]:
        """The calls for columns: an object of them by name, or the only one. InputError."""
        named = self.named(columns, "inputs", {})
        if not self._model.rowwise:
            return [self.call(named, "inputs")]
        for name, column in named.items():
            if not isinstance(column, list):
                raise InputError(f"inputs.{name}: expected a list with one value for each row")
        counts = {name: len(column) for name, column in named.items()}
        if len(set(counts.values())) != 1 or not next(iter(counts.values())):
            raise InputError(f"inputs: expected columns of equal length with at least one row, got {counts}")
        rows = [dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)]
        return [self.call(row, f"inputs, row {index}") for index, row in enumerate(rows)]

    def named(self, value: Any, where: str, shared: Mapping[str, Any]) -> dict[str, Any]:
        """One row, or all columns, as inputs by name."""
        only = self.only(shared)
        if isinstance(value, dict) and (only is None or not value.keys().isdisjoint(self.names)):
            return self._unwrapped({**shared, **value}, where)
        if only is None:
            raise InputError(f"{where}: expected an object with the inputs {', '.join(self.names)}")
        return self._unwrapped({**shared, only: value}, where)

    def only(self, shared: Mapping[str, Any]) -> str | None:
        """The input that a value without a name is for, when `shared` are given; None where there are several."""
        if len(self.names) == 1:
            return self.names[0]
        wanted = [name for name in self._required if name not in shared]
        return wanted[0] if len(wanted) == 1 else None

    def _unwrapped(self, inputs: dict[str, Any], where: str) -> dict[str, Any]:
        try:
            for name in self._wrapped.keys() & inputs.keys():
                inputs[name] = _unwrap(inputs[name], self._wrapped[name])
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        return inputs

    def call(self, inputs: dict[str, Any], where: str) -> Any:
        """One call of checked inputs; InputError begins with `where`."""
        try:
            return self._model.prepare(self._model.signature.convert(inputs))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    # -- answers ------------------------------------------------------------------------------------------------------

    def rows(self, answers: Sequence[Any]) -> bytes:
        """A JSON array with a row for each row that was asked; a predictor that yields gives a list of its items."""
        if not self._model.rowwise:
            return self._tensor_rows(answers)
        rows = b",".join(map(self._row, answers))
        return b"[[%b]]" % rows if self._model.streams else b"[%b]" % rows

    def columns(self, answers: Sequence[Any]) -> bytes:
        """The only output's column, or an object of columns by name."""
        if not self._model.rowwise:
            tensors = self._model.tensors_of(answers)
            values = {name: _plain(name, array) for name, array in tensors.items()}
            return msgspec.json.encode(next(iter(values.values())) if len(values) == 1 else values)
        if len(self._fields) < 2 or self._model.streams:
            return self.rows(answers)
        columns = {
            name: b"[%b]" % b",".join(self._cell(_field(answer, name)) for answer in answers) for name in self._fields
        }
        return _object(columns)

    def _tensor_rows(self, answers: Sequence[Any]) -> bytes:
        tensors = self._model.tensors_of(answers)
        values = {name: _plain(name, array) for name, array in tensors.items()}
        if len(values) == 1:
            return msgspec.json.encode(next(iter(values.values())))
        counts = {name: array.shape[:1] for name, array in tensors.items()}
        if len(set(counts.values())) != 1 or () in counts.values():
            raise InputError("the outputs are not rows of equal number; ask with `inputs`, not `instances`")
        return msgspec.json.encode([dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)])

    def _row(self, answer: Any) -> bytes:
        if not self._fields:
            return self._cell(answer)
        if len(self._fields) == 1:
            return self._cell(_field(answer, self._fields[0]))
        return _object({name: self._cell(_field(answer, name)) for name in self._fields})

    def _cell(self, value: Any) -> bytes:
        data = self._model.signature.encode(value)
        return b'{"b64":%b}' % data if isinstance(value, bytes | bytearray | memoryview | File) else data


def _columns(rows: list[dict[str, Any]], where: str) -> dict[str, list[Any]]:
    names = rows[0].keys()
    for index, row in enumerate(rows):
        if row.keys() != names:
            raise InputError(f"{where}[{index}]: expected the inputs of the first row, {', '.join(names)}")
    return {name: [row[name] for row in rows] for name in names}


def _unwrap(value: Any, cell: Cell) -> Any:
    """Bytes for `{"b64": ...}`, at any depth of lists; text where text is wanted, bytes where bytes are."""
    if isinstance(value, list):
        return [_unwrap(item, cell) for item in value]
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        try:
            data = binascii.a2b_base64(value["b64"].encode("ascii"), strict_mode=True)
        except ValueError as error:
            raise ValueError(f"expected base64 in b64: {error}") from error
        return data.decode() if cell is Cell.TEXT else data
    if isinstance(value, str) and cell is Cell.RAW and not value.startswith("data:"):
        return value.encode()
    return value


def _plain(name: str, array: Array) -> Any:
    """Nested lists; bytes that are no text, or whose output says so by its name, as `{"b64": ...}`."""
    if array.dtype != np.dtype(object):
        return array.tolist()
    return _plain_texts(array.tolist(), binary=name.endswith(_BINARY_SUFFIX))


def _plain_texts(value: Any, *, binary: bool) -> Any:
    if isinstance(value, list):
        return [_plain_texts(item, binary=binary) for item in value]
    data = value.encode() if isinstance(value, str) else bytes(value)
    if not binary:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(data).decode()}


def _field(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name)


def _object(values: Mapping[str, bytes]) -> bytes:
    return b"{%b}" % b",".join(msgspec.json.encode(name) + b":" + value for name, value in values.items())
