"""Typed predictors as V2 tensors: every parameter is a tensor whose rows are calls.

A request of N rows means N calls of `predict`. How hints map:
- int, float, bool -> INT64, FP64, BOOL of shape [-1] ([-1, 1] is taken too)
- str, enums, Literal and dates -> BYTES of shape [-1], UTF-8 text
- bytes, File, Image -> BYTES of shape [-1], the bytes themselves
- arrays -> their datatype with shape [-1, *shape]; lists of the above -> one more dimension
- anything else (structs, dicts, unions) -> BYTES of shape [-1], JSON
A struct (dataclass, msgspec Struct, NamedTuple, TypedDict) that is returned gives one output per field, any other
return value one output named `output`. model.py calls this.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import inspect as kinds

from berth.errors import InputError, ModelError
from berth.files import File
from berth.hints import ArrayInput, give
from berth.signature import Call, Signature
from berth.tensors import DATATYPES, Array, Shape, TensorSpec

_TEXTS = (kinds.StrType, kinds.DateTimeType, kinds.DateType, kinds.TimeType, kinds.UUIDType, kinds.DecimalType)


class Cell(enum.Enum):
    """What one element of a tensor carries."""

    NUMBER = "number"
    TEXT = "text"
    RAW = "raw"
    ARRAY = "array"
    JSON = "json"


class _Column(msgspec.Struct, frozen=True):
    """One tensor of the mapping: `shape` is that of one row."""

    name: str
    cell: Cell
    datatype: str
    shape: Shape
    optional: bool = False

    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.datatype, (-1, *self.shape), self.optional)


class RowCodec:
    """Tensors to calls and answers to tensors, for one signature."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._inputs = [_column(item.name, item.type, optional=not item.required) for item in signature.inputs]
        self._outputs, self._pick = _output_columns(signature.output)
        self.inputs = tuple(column.spec() for column in self._inputs)
        self.outputs = tuple(column.spec() for column in self._outputs)

    def calls(self, tensors: Mapping[str, Array]) -> list[Call]:
        """One call per row; InputError when rows or values do not fit."""
        counts = {name: len(array) for name, array in tensors.items()}
        if len(set(counts.values())) != 1:
            raise InputError(f"all inputs need the same number of rows, got {counts}")
        columns = {
            column.name: _values(column, tensors[column.name]) for column in self._inputs if column.name in tensors
        }
        count = next(iter(counts.values()))
        return [
            self._signature.convert({name: column[row] for name, column in columns.items()}) for row in range(count)
        ]

    def tensors(self, answers: Sequence[Any]) -> dict[str, Array]:
        """One row per answer; ModelError when an answer has not the shape that its hint promises."""
        return {
            column.name: _array(column, [self._pick(answer, column.name) for answer in answers])
            for column in self._outputs
        }


def cell_of(hint: Any) -> Cell:
    """What one element of the tensor for a hint carries."""
    return _cell_of(kinds.type_info(hint))[0]


def _column(name: str, hint: Any, *, optional: bool = False) -> _Column:
    cell, datatype, shape = _cell_of(kinds.type_info(hint))
    return _Column(name, cell, datatype, shape, optional)


def _cell_of(info: kinds.Type) -> tuple[Cell, str, Shape]:
    if isinstance(info, kinds.Metadata):
        return _cell_of(info.type)
    if isinstance(info, kinds.UnionType):
        others = [member for member in info.types if not isinstance(member, kinds.NoneType)]
        return _cell_of(others[0]) if len(others) == 1 else (Cell.JSON, "BYTES", ())
    if isinstance(info, kinds.ListType):
        cell, datatype, shape = _cell_of(info.item_type)
        return (cell, datatype, (-1, *shape)) if cell is not Cell.JSON else (Cell.JSON, "BYTES", ())
    if isinstance(info, kinds.CustomType):
        return _cell_of_class(info.cls)
    return _cell_of_scalar(info)


def _cell_of_class(wanted: type) -> tuple[Cell, str, Shape]:
    if issubclass(wanted, ArrayInput) and wanted.shape is not None:
        return Cell.ARRAY, wanted.datatype, wanted.shape
    if issubclass(wanted, File):
        return Cell.RAW, "BYTES", ()
    if issubclass(wanted, np.generic) and np.dtype(wanted) in DATATYPES:
        return Cell.NUMBER, DATATYPES[np.dtype(wanted)], ()
    return Cell.JSON, "BYTES", ()


def _cell_of_scalar(info: kinds.Type) -> tuple[Cell, str, Shape]:
    if isinstance(info, kinds.BoolType):
        return Cell.NUMBER, "BOOL", ()
    if isinstance(info, kinds.IntType):
        return Cell.NUMBER, "INT64", ()
    if isinstance(info, kinds.FloatType):
        return Cell.NUMBER, "FP64", ()
    if isinstance(info, kinds.BytesType):
        return Cell.RAW, "BYTES", ()
    if isinstance(info, _TEXTS):
        return Cell.TEXT, "BYTES", ()
    if isinstance(info, kinds.EnumType | kinds.LiteralType):
        members = [item.value for item in info.cls] if isinstance(info, kinds.EnumType) else list(info.values)
        if all(isinstance(value, str) for value in members):
            return Cell.TEXT, "BYTES", ()
        if all(isinstance(value, int) for value in members):
            return Cell.NUMBER, "INT64", ()
    return Cell.JSON, "BYTES", ()


def _output_columns(output: Any) -> tuple[list[_Column], Callable[[Any, str], Any]]:
    info = kinds.type_info(output)
    structs = kinds.StructType | kinds.DataclassType | kinds.NamedTupleType | kinds.TypedDictType
    if isinstance(info, structs) and info.fields:
        return [_field_column(field) for field in info.fields], _field_of
    return [_column("output", output)], lambda answer, _: answer


def _field_of(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name)


def _field_column(field: kinds.Field) -> _Column:
    cell, datatype, shape = _cell_of(field.type)
    return _Column(field.name, cell, datatype, shape)


def _values(column: _Column, array: Array) -> list[Any]:
    if column.cell is Cell.ARRAY:
        return list(array)
    if array.ndim == 2 and not column.shape and array.shape[1] == 1:
        array = array[:, 0]
    try:
        return [_from_cell(column.cell, value) for value in array.tolist()]
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise InputError(f"input {column.name!r}: {error}") from error


def _from_cell(cell: Cell, value: Any) -> Any:
    if isinstance(value, list):
        return [_from_cell(cell, item) for item in value]
    if cell is Cell.TEXT:
        return value.decode() if isinstance(value, bytes) else value
    if cell is Cell.RAW:
        return value.encode() if isinstance(value, str) else value
    if cell is Cell.JSON:
        return msgspec.json.decode(value)
    return value


def _array(column: _Column, values: list[Any]) -> Array:
    spec = column.spec()
    try:
        if spec.datatype == "BYTES":
            return _texts(column, values)
        floats = spec.dtype.kind == "f"
        array = np.array([np.nan if value is None and floats else value for value in values], dtype=spec.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"output {column.name!r}: expected {spec.datatype} rows of equal shape: {error}") from error
    if array.ndim != len(spec.shape):
        raise ModelError(f"output {column.name!r}: expected shape {list(spec.shape)}, got {list(array.shape)}")
    return array


def _texts(column: _Column, values: list[Any]) -> Array:
    cells = [_to_cell(column, value, len(column.shape)) for value in values]
    array = np.empty(len(cells), dtype=object)
    if column.shape:
        return np.array(cells, dtype=object)
    array[:] = cells
    return array


def _to_cell(column: _Column, value: Any, depth: int) -> Any:
    if depth:
        return [_to_cell(column, item, depth - 1) for item in value]
    if isinstance(value, enum.Enum):
        value = value.value
    if column.cell is Cell.ARRAY and isinstance(value, str | bytes):
        return value
    if column.cell is Cell.RAW:
        return value.data if isinstance(value, File) else bytes(value)
    if column.cell is Cell.TEXT:
        return str(value)
    return msgspec.json.encode(value, enc_hook=give).decode()
