"""Tensors as nouns: V2's datatypes, the description of one tensor, and `Tensor`, the type hint for arrays.

`coerce` is the one place where JSON lists, or arrays of another kind, become the array that a model asked for;
signature.py, protocols/v2.py and the backends call it.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np

_DTYPE_NAMES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "BF16": "float32",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
DTYPES: dict[str, np.dtype[Any]] = {datatype: np.dtype(name) for datatype, name in _DTYPE_NAMES.items()}
DATATYPES: dict[np.dtype[Any], str] = {dtype: datatype for datatype, dtype in DTYPES.items() if datatype != "BF16"}

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]


class TensorSpec(msgspec.Struct, frozen=True):
    """One tensor of a model as V2's metadata shows it: -1 in `shape` is a dimension of any size."""

    name: str
    datatype: str
    shape: Shape
    optional: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype; BYTES are object arrays of str or bytes, BF16 are float32."""
        return DTYPES[self.datatype]


class Tensor(msgspec.Struct, frozen=True):
    """The dtype and shape of an array parameter: `Annotated[np.ndarray, Tensor("float32", (-1, 4))]`.

    -1 (or None) is a dimension of any size; without `shape` any shape is taken. Arrays of "bfloat16" are float32 in
    Python, and two bytes a number on the wire.
    """

    dtype: str
    shape: tuple[int | None, ...] | None = None

    def dimensions(self) -> Shape | None:
        """The shape with -1 for the free dimensions."""
        return None if self.shape is None else tuple(-1 if size is None else size for size in self.shape)


class Packing:
    """How rows of one small numeric tensor are joined as bytes.

    A batch of many requests of few numbers each is joined several times faster as bytes than as arrays.
    """

    __slots__ = ("_packers", "_shape", "code", "datatype", "dtype", "name", "row_bytes", "row_size", "tail")

    CODES: ClassVar = {"FP32": "f", "FP64": "d", "INT32": "i", "INT64": "q"}
    LARGEST = 4096  # bytes of a row; beyond, copying twice costs more than it saves

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.datatype = spec.datatype
        self.code = self.CODES[spec.datatype]
        self.dtype = spec.dtype
        self.tail = spec.shape[1:]
        self.row_size = math.prod(self.tail)
        self.row_bytes = self.row_size * spec.dtype.itemsize
        self._shape = (-1, *self.tail)
        self._packers: dict[int, Callable[..., bytes]] = {}

    @classmethod
    def of(cls, spec: TensorSpec) -> Packing | None:
        """The packing of a tensor; None for one that is not numeric, of variable rows, or of large ones."""
        if spec.datatype not in cls.CODES or spec.optional or not spec.shape or spec.shape[0] != -1:
            return None
        packing = cls(spec)
        return packing if -1 not in packing.tail and 0 < packing.row_bytes <= cls.LARGEST else None

    def pack(self, values: Sequence[float]) -> bytes:
        """Numbers as bytes; struct.error or OverflowError for one that the datatype cannot hold."""
        packer = self._packers.get(len(values))
        if packer is None:
            packer = struct.Struct(f"={len(values)}{self.code}").pack
            if len(self._packers) < 64:
                self._packers[len(values)] = packer
        return packer(*values)

    def array(self, blobs: Sequence[bytes]) -> Array:
        """The rows of all the blobs, read-only."""
        return np.frombuffer(b"".join(blobs), self.dtype).reshape(self._shape)


class TensorBatch:
    """What a model answered for a whole batch; `memo` is for the protocol that encodes all rows at once."""

    __slots__ = ("arrays", "memo")

    def __init__(self, arrays: dict[str, Array]) -> None:
        self.arrays = arrays
        self.memo: tuple[object, Any] = (None, None)


class TensorRows(msgspec.Struct, frozen=True, eq=False):
    """One request's rows of a batch; `stop` is None where the batch is one request."""

    batch: TensorBatch
    start: int
    stop: int | None

    def arrays(self) -> dict[str, Array]:
        """The rows as arrays."""
        arrays = self.batch.arrays
        if self.stop is None:
            return arrays
        return {name: array[self.start : self.stop] for name, array in arrays.items()}


def fits(actual: Shape, expected: Shape) -> bool:
    """Whether an actual shape is allowed by one with -1 for the free dimensions."""
    if len(actual) != len(expected):
        return False
    return all(want in (-1, got) for got, want in zip(actual, expected, strict=True))


def coerce(value: Any, dtype: np.dtype[Any], shape: Shape | None) -> Array:
    """Nested lists (or an array) as an array of this dtype and shape; ValueError says expected and got.

    Numbers change kind only where nothing is lost: whole numbers may become floats, and whole numbers that fit may
    change size; null is NaN in a float array.
    """
    if dtype.kind == "O":
        array = _texts(value)
    else:
        array = _cast(value if isinstance(value, np.ndarray) else _from_lists(value, dtype), dtype)
    if shape is not None and not fits(array.shape, shape):
        raise ValueError(f"expected shape {list(shape)}, got {list(array.shape)}")
    return array


def _from_lists(value: Any, dtype: np.dtype[Any]) -> Array:
    if not isinstance(value, list | tuple | int | float | str | bool):
        raise ValueError(f"expected nested lists, got {_json_name(value)}")
    try:
        array = np.array(value)
    except ValueError as error:
        if "inhomogeneous" in str(error):
            raise ValueError("expected nested lists of equal length, got ragged ones") from error
        raise ValueError(f"expected nested lists of numbers: {error}") from error
    if array.dtype.kind not in "iuf" or not array.size:
        return array
    kinds = _kinds(value, array.ndim)
    if bool in kinds:  # which numpy takes for a number where it is among others
        raise ValueError(f"expected {dtype.name}, got booleans among numbers")
    if dtype.kind in "iu" and array.dtype.kind == "f" and kinds == {int}:  # large whole numbers among small ones
        return np.array(value, dtype=object)
    return array


def _kinds(value: Any, depth: int) -> set[type]:
    """The types of the elements of lists that are nested so deep."""
    flat = [value] if depth == 0 else value
    for _ in range(depth - 1):
        flat = itertools.chain.from_iterable(flat)
    return set(map(type, flat))


def _texts(value: Any) -> Array:
    # As objects from the start: numpy's own strings would lose NUL characters at their end.
    if not isinstance(value, list | np.ndarray):
        raise ValueError(f"expected nested lists of strings, got {_json_name(value)}")
    array = np.array(value, dtype=object)
    for item in array.ravel():
        if isinstance(item, list):
            raise ValueError("expected nested lists of equal length, got ragged ones")
        if not isinstance(item, str | bytes):
            raise ValueError(f"expected strings, got {_json_name(item)}")
    return array


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype == dtype:
        return array
    got, want = array.dtype.kind, dtype.kind
    if array.size == 0:
        return array.astype(dtype)
    if want == "f" and got in "iuf":
        return _narrowed(array, dtype)
    if want == "f" and got == "O":
        return _floats_with_null(array, dtype)
    if want in "iu" and (got in "iu" or (got == "O" and all(type(item) is int for item in array.ravel()))):
        return _whole_numbers(array, dtype)
    raise ValueError(f"expected {dtype.name}, got {_kind_name(array)}")


def _floats_with_null(array: Array, dtype: np.dtype[Any]) -> Array:
    for item in array.ravel():
        if item is not None and (isinstance(item, bool) or not isinstance(item, int | float)):
            raise ValueError(f"expected {dtype.name}, got {_json_name(item)}")
    return _narrowed(array, dtype)


def _narrowed(array: Array, dtype: np.dtype[Any]) -> Array:
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype)
    except (FloatingPointError, OverflowError) as error:  # OverflowError: a whole number that no float can hold
        raise ValueError(f"expected {dtype.name} (up to {np.finfo(dtype).max:.4g}), got a larger number") from error


def _whole_numbers(array: Array, dtype: np.dtype[Any]) -> Array:
    limits = np.iinfo(dtype)
    low, high = int(array.min()), int(array.max())
    if low < limits.min or high > limits.max:
        raise ValueError(
            f"expected {dtype.name} ({limits.min} to {limits.max}), got {low if low < limits.min else high}"
        )
    return array.astype(dtype)


def _kind_name(array: Array) -> str:
    names = {"b": "booleans", "i": "whole numbers", "u": "whole numbers", "f": "floating-point numbers", "U": "strings"}
    return names.get(array.dtype.kind, "a mixture of types")


def _json_name(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", str: "a string", bool: "a boolean", list: "a list", int: "a whole number too large"}
    return names.get(type(value), type(value).__name__)
