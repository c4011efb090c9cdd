"""V2 tensors from bytes: JSON data (flat or nested), binary data, and the checks between them.

Every error says what was expected and what came. v2_messages.py reads what is around the tensors; v2.py calls this, and
v2_grpc_codec.py for what both have in common.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from berth.bfloat16 import ITEM_BYTES, widen
from berth.errors import InputError
from berth.protocols.base import Refusal
from berth.protocols.nesting import check_nesting
from berth.protocols.numbers import Numbers
from berth.protocols.v2_messages import NO_DATA, Blob, InferInput, decode_any
from berth.tensors import Array, Shape, TensorSpec, coerce, fits

NO_JSON = frozenset({"FP16", "BF16"})
_decode_floats = msgspec.json.Decoder(list[float]).decode
_decode_ints = msgspec.json.Decoder(list[int]).decode
encode_json = msgspec.json.Encoder().encode
_FEW = 64


class Slot:
    """One input of the model, with what the short way needs at hand."""

    __slots__ = ("datatype", "decode", "dtype", "first", "item_bytes", "name", "plain", "row", "shape", "tail")

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.datatype = spec.datatype
        self.dtype = spec.dtype
        self.item_bytes = ITEM_BYTES if spec.datatype == "BF16" else spec.dtype.itemsize  # on the wire
        self.shape = spec.shape
        self.first = spec.shape[0] if spec.shape else 0
        self.tail = spec.shape[1:]
        self.row = math.prod(self.tail)  # elements of one row, where that is known
        self.plain = bool(spec.shape) and self.first == -1 and -1 not in self.tail
        decoders = {"FP32": _decode_floats, "FP64": _decode_floats, "INT64": _decode_ints}
        self.decode = decoders.get(spec.datatype)


class Inputs:
    """Decodes the inputs of one model. `rowwise` models take [N, 1] where [N] is meant."""

    def __init__(self, specs: Sequence[TensorSpec], *, rowwise: bool) -> None:
        self._slots = {spec.name: Slot(spec) for spec in specs}
        self._required = {spec.name for spec in specs if not spec.optional}
        self._rowwise = rowwise

    def decode(self, items: Sequence[InferInput], blob: Blob) -> dict[str, Array]:
        """Named arrays; InputError when a name, datatype, shape, count or size is wrong."""
        arrays: dict[str, Array] = {}
        used = 0
        for item in items:
            slot, shape = self.expected(item.name, item.datatype, item.shape, arrays)
            size = None if item.parameters is None else item.parameters.get("binary_data_size")
            if size is None:
                arrays[item.name] = _from_json(slot, item, shape)
            else:
                arrays[item.name] = self.from_blob(slot, shape, _take(slot.name, blob, used, size))
                used += size
        if used < len(blob):
            raise InputError(f"unexpected additional input data: {len(blob) - used} bytes after the last input")
        self.check_complete(arrays)
        return arrays

    def expected(self, name: str, datatype: str, shape: Shape, seen: Mapping[str, Array]) -> tuple[Slot, Shape]:
        """The input that a caller means, and the shape as the model takes it; InputError when it does not fit."""
        slot = self._slots.get(name)
        if slot is None or name in seen:
            raise self._unknown(name, twice=slot is not None)
        if datatype != slot.datatype:
            raise InputError(f"input {name!r}: expected datatype {slot.datatype}, got {datatype}")
        if not (slot.plain and shape[1:] == slot.tail and shape and shape[0] >= 0):
            shape = self._shape(slot, shape)
        return slot, shape

    def check_complete(self, arrays: Mapping[str, Array]) -> None:
        """InputError when an input that the model needs is not there."""
        if len(arrays) != len(self._slots) and not self._required <= arrays.keys():
            missing = sorted(self._required - arrays.keys())
            raise InputError(f"missing input {missing[0]!r}; the model takes {self._names()}")

    def decode_raw(self, body: Blob) -> dict[str, Array]:
        """A body that is nothing but the bytes of the model's only input, one row of it."""
        slots = list(self._slots.values())
        if len(slots) != 1:
            raise InputError(f"a raw binary request needs a model with one input; this one takes {self._names()}")
        slot = slots[0]
        if slot.datatype == "BYTES":
            array = np.empty(1, dtype=object)
            array[0] = bytes(body)
            return {slot.name: array.reshape([1] * len(slot.shape))}
        if not body:
            raise InputError(f"input {slot.name!r}: a raw binary request is the input's bytes, got none")
        shape = [1 if slot.first == -1 else slot.first, *slot.tail] if slot.shape else []
        if shape.count(-1) > 1:
            raise InputError(f"a raw binary request allows one variable dimension, the input has {list(slot.shape)}")
        known = math.prod(size for size in shape if size != -1) * slot.item_bytes
        if -1 in shape:
            if known == 0 or len(body) % known:
                raise InputError(f"input {slot.name!r}: expected a multiple of {known} bytes, got {len(body)}")
            shape[shape.index(-1)] = len(body) // known
        return {slot.name: self.from_blob(slot, tuple(shape), body)}

    def _shape(self, slot: Slot, shape: Shape) -> Shape:
        if any(size < 0 for size in shape):
            raise InputError(f"input {slot.name!r}: expected dimensions of 0 or more, got {list(shape)}")
        if fits(shape, slot.shape):
            return shape
        if self._rowwise and len(slot.shape) == 1 and len(shape) == 2 and shape[1] == 1:
            return shape[:1]
        raise InputError(f"input {slot.name!r}: expected shape {list(slot.shape)}, got {list(shape)}")

    def from_blob(self, slot: Slot, shape: Shape, blob: Blob) -> Array:
        """An array from its bytes; InputError when they are too few or too many."""
        count = math.prod(shape)
        if slot.datatype == "BYTES":
            return reshaped(slot.name, _texts(slot.name, blob, count), shape)
        expected = count * slot.item_bytes
        if len(blob) != expected:
            wanted = f"{expected} bytes for shape {list(shape)} of {slot.datatype}"
            raise InputError(f"input {slot.name!r}: expected {wanted}, got {len(blob)}")
        if slot.datatype == "BF16":
            return reshaped(slot.name, widen(np.frombuffer(blob, "<u2")), shape)
        array = reshaped(slot.name, np.frombuffer(blob, dtype=slot.dtype), shape)
        return array.copy() if self._rowwise else array  # a predictor may write into its input

    def _unknown(self, name: str, *, twice: bool) -> InputError:
        if twice:
            return InputError(f"input {name!r} occurs twice")
        return InputError(f"unexpected input {name!r}; the model takes {self._names()}")

    def _names(self) -> str:
        return ", ".join(repr(name) for name in self._slots)


def _take(name: str, blob: Blob, used: int, size: Any) -> Blob:
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InputError(f"input {name!r}: binary_data_size: expected a number of bytes, got {size!r}")
    if used + size > len(blob):
        raise InputError(f"input {name!r}: {used + size - len(blob)} bytes are missing: expected {size} of binary data")
    return blob[used : used + size]


def _from_json(slot: Slot, item: InferInput, shape: Shape) -> Array:
    data: Any = item.data
    array: Array | None = None
    if isinstance(data, Numbers):
        array = _from_numbers(slot, item, data)
    elif slot.decode is not None and isinstance(data, msgspec.Raw):
        try:
            values: Any = slot.decode(data)
            array = _numbers(slot, values)
        except (msgspec.DecodeError, OverflowError, FloatingPointError):
            array = None
    if array is None:
        array = _from_any_json(slot, item)
    count = shape[0] * slot.row if slot.plain else math.prod(shape)
    if array.size != count:
        raise InputError(f"input {slot.name!r}: expected {count} elements for shape {list(shape)}, got {array.size}")
    return reshaped(slot.name, array, shape)


def reshaped(name: str, array: Array, shape: Shape) -> Array:
    """An array in a shape with as many elements; InputError for a shape that no machine can count."""
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError) as error:  # nothing, in dimensions that no machine can count
        raise InputError(f"input {name!r}: a tensor of shape {list(shape)} cannot be: {error}") from error


def _from_numbers(slot: Slot, item: InferInput, data: Numbers) -> Array:
    if slot.datatype in NO_JSON or slot.datatype == "BYTES":
        return _from_any_json(slot, msgspec.structs.replace(item, data=msgspec.Raw(data.text())))
    try:
        return data.array(slot.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"input {slot.name!r}: {error}") from error


def _numbers(slot: Slot, values: list[Any]) -> Array:
    """A list as an array; OverflowError or FloatingPointError for a number that the datatype cannot hold."""
    if slot.datatype != "FP32":
        return np.array(values, slot.dtype)
    if len(values) <= _FEW:  # packing checks each number, and is quicker than asking numpy to check a short list
        return np.frombuffer(bytearray(struct.pack(f"={len(values)}f", *values)), slot.dtype)
    with np.errstate(over="raise"):
        return np.array(values, slot.dtype)


def _from_any_json(slot: Slot, item: InferInput) -> Array:
    data: Any = item.data
    if data is None or data == NO_DATA:
        if item.parameters and "shared_memory_region" in item.parameters:
            raise Refusal(501, f"input {slot.name!r}: shared memory regions are not offered; send the data itself")
        raise InputError(f"input {slot.name!r}: expected data, or binary_data_size in its parameters; got neither")
    if slot.datatype in NO_JSON:
        raise InputError(f"input {slot.name!r}: {slot.datatype} has no JSON form; send it as binary data")
    if isinstance(data, msgspec.Raw):
        check_nesting(bytes(data))
    try:
        values = decode_any(data) if isinstance(data, msgspec.Raw) else data
        if not isinstance(values, list):
            raise ValueError(f"expected a list of {slot.datatype}")
        return coerce(values, slot.dtype, None)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"input {slot.name!r}: {error}") from error


def _texts(name: str, blob: Blob, count: int) -> Array:
    """BYTES elements: each a little-endian length in 32 bits, then so many bytes."""
    values: list[bytes] = []
    at = 0
    while at < len(blob) and len(values) < count:
        if at + 4 > len(blob):
            break
        (size,) = struct.unpack_from("<I", blob, at)
        at += 4 + size
        values.append(bytes(blob[at - size : at]))
    if at != len(blob) or len(values) != count:
        raise InputError(f"input {name!r}: expected {count} BYTES elements that fill {len(blob)} bytes exactly")
    array = np.empty(count, dtype=object)
    array[:] = values
    return array
