"""V2 tensors <-> protobuf: typed contents and raw bytes, both ways.

Requests are read by protobuf; answers are put together as bytes, since all but the numbers in them is the same from one
answer to the next, and large tensors need not be copied through a message. v2_grpc.py and v2_grpc_express.py call it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from berth.errors import InputError
from berth.protocols.grpc_base import framed
from berth.protocols.v2_inputs import Inputs, Slot, reshaped
from berth.protocols.v2_outputs import check_once, to_blob
from berth.protocols.v2_protobuf import MESSAGES
from berth.tensors import Array, Packing, Shape, TensorRows, TensorSpec, coerce

# Which field of InferTensorContents has the elements of a datatype.
FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_MANY_SHAPES = 256
_SMALL = 65_536  # bytes; what is smaller cannot become large
_MOST_FIELDS = 4096
_NESTED = frozenset(number << 3 | 2 for number in (4, 5, 6))  # parameters, inputs, outputs
_OUTPUTS, _RAW, _ID, _ANSWER, _CONTENTS = (bytes([number << 3 | 2]) for number in (5, 6, 3, 2, 5))  # field tags
_AS_BYTES = {"BOOL": b"\x0a", "FP32": b"\x32", "FP64": b"\x3a"}  # what protobuf packs as numpy does, and the tags
_InferResponse = MESSAGES["ModelInferResponse"]
_OutputTensor = MESSAGES["ModelInferResponse.InferOutputTensor"]
_Contents = MESSAGES["InferTensorContents"]


class Form(msgspec.Struct, frozen=True):
    """How an answer is to look: which outputs (None: all), raw or typed, and the id to echo."""

    names: tuple[str, ...] | None = None
    raw: bool = True
    id: str = ""


class GrpcInputs:
    """Decodes the inputs of one model."""

    def __init__(self, specs: Sequence[TensorSpec], packing: Packing | None, *, rowwise: bool) -> None:
        self._inputs = Inputs(specs, rowwise=rowwise)
        self._packing = packing

    def packed(self, message: Any) -> tuple[list[bytes], int] | None:
        """The one call of a raw request for a model with a packing, and its rows; None for all other requests."""
        packing = self._packing
        if packing is None or len(message.inputs) != 1 or len(message.raw_input_contents) != 1:
            return None
        item, blob = message.inputs[0], message.raw_input_contents[0]
        if item.name != packing.name or item.datatype != packing.datatype or item.HasField("contents"):
            return None
        rows, rest = divmod(len(blob), packing.row_bytes)
        if rest or not rows or tuple(item.shape) != (rows, *packing.tail) or item.parameters:
            return None
        return [blob], rows

    def decode(self, message: Any) -> dict[str, Array]:
        """Named arrays; InputError when a name, datatype, shape, count or size is wrong."""
        blobs = message.raw_input_contents
        items = message.inputs
        if blobs and len(blobs) != len(items):
            raise InputError(f"expected {len(items)} raw_input_contents, one for each input, got {len(blobs)}")
        arrays: dict[str, Array] = {}
        for index, item in enumerate(items):
            name = item.name
            slot, shape = self._inputs.expected(name, item.datatype, tuple(item.shape), arrays)
            if "shared_memory_region" in item.parameters:
                raise InputError(f"input {name!r}: shared memory is not offered; send the tensor in the request")
            if not blobs:
                arrays[name] = _from_contents(slot, item.contents, shape)
            elif item.HasField("contents") and item.contents.ByteSize():
                raise InputError(f"input {name!r} has contents beside raw_input_contents; send one of them")
            else:
                arrays[name] = self._inputs.from_blob(slot, shape, blobs[index])
        self._inputs.check_complete(arrays)
        return arrays


def check_fields(message: bytes) -> None:
    """Refuse a large request of countless small parts, whose objects would take many times its bytes.

    InputError; what is no protobuf is left to the parser.
    """
    if len(message) > _SMALL:
        for tag, start, end in _fields(message, 0, len(message)):
            if tag in _NESTED and end - start > _SMALL:
                for _ in _fields(message, start, end):
                    pass


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Tags of the fields between two places, and where the content of each begins and ends."""
    for _ in range(_MOST_FIELDS):
        if at >= end:
            return
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == 2:
            size, at = _read_varint(data, at)
        elif kind == 0:
            size = _read_varint(data, at)[1] - at
        else:
            size = {1: 8, 5: 4}.get(kind, end)  # others are errors, for the parser to tell
        yield tag, at, min(at + size, end)
        at += size
    raise InputError(f"the request is too fragmented: expected at most {_MOST_FIELDS} fields in a message")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for index, byte in enumerate(data[at : at + 10]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, at + index + 1
    return 0, len(data)


def _from_contents(slot: Slot, contents: Any, shape: Shape) -> Array:
    field = FIELDS.get(slot.datatype)
    if field is None:
        raise InputError(f"input {slot.name!r}: {slot.datatype} has no typed contents; send it in raw_input_contents")
    others = [found.name for found, _ in contents.ListFields() if found.name != field]
    if others:
        raise InputError(f"input {slot.name!r}: expected {slot.datatype} in {field}, got {others[0]}")
    values = getattr(contents, field)
    count = math.prod(shape)
    if len(values) != count:
        raise InputError(f"input {slot.name!r}: expected {count} {field} for shape {list(shape)}, got {len(values)}")
    if slot.datatype in _AS_BYTES and count:
        return reshaped(slot.name, _as_bytes(slot, contents, count), shape)
    return reshaped(slot.name, _elements(slot, values), shape)


def _as_bytes(slot: Slot, contents: Any, count: int) -> Array:
    """Elements that protobuf packs as numpy does: far quicker than one by one."""
    data = contents.SerializeToString()
    array = np.frombuffer(data, slot.dtype, count, len(data) - count * slot.dtype.itemsize)
    return array.copy()  # a predictor may write into its input


def _elements(slot: Slot, values: Any) -> Array:
    if slot.datatype == "BYTES":
        array = np.empty(len(values), dtype=object)
        array[:] = list(values)
        return array
    try:
        if slot.dtype.itemsize < 4 and slot.dtype.kind in "iu":
            return coerce(list(values), slot.dtype, None)
        return np.fromiter(values, slot.dtype, len(values))
    except (ValueError, OverflowError) as error:
        raise InputError(f"input {slot.name!r}: {error}") from error


class GrpcOutputs:
    """Encodes the outputs of one model."""

    def __init__(self, specs: Sequence[TensorSpec], model: str, version: str) -> None:
        self._names = tuple(spec.name for spec in specs)
        self._datatypes = {spec.name: spec.datatype for spec in specs}
        self._start = _InferResponse(model_name=model, model_version=version).SerializeToString()
        self._heads: dict[tuple[tuple[str, ...], tuple[Shape, ...]], bytes] = {}
        self.fixed_size = "BYTES" not in self._datatypes.values()

    def form(self, message: Any, *, raw: bool) -> Form:
        """What a request asks for; InputError for an output that the model has not."""
        names = tuple(output.name for output in message.outputs) or None
        check_once(names or ())
        for output in message.outputs:
            if output.name not in self._datatypes:
                known = ", ".join(repr(name) for name in self._names)
                raise InputError(f"unexpected output {output.name!r}; the model answers {known}")
            if "classification" in output.parameters:
                raise InputError(f"output {output.name!r}: the classification extension is not offered")
            if "shared_memory_region" in output.parameters:
                raise InputError(f"output {output.name!r}: shared memory is not offered")
        typed = not raw and all(self._datatypes[name] in FIELDS for name in names or self._names)
        return Form(names, not typed, message.id)

    def encode(self, tensors: dict[str, Array], form: Form, extra: bytes = b"") -> bytes:
        """A ModelInferResponse; `extra` are more fields of it, encoded."""
        names = form.names or self._names
        pieces = [self._start, extra]
        if form.id:
            pieces.append(field(_ID, form.id.encode()))
        if not form.raw:
            pieces += [self._typed(name, tensors[name]) for name in names]
            return b"".join(pieces)
        pieces.append(self._head(names, tuple([tensors[name].shape for name in names])))
        for name in names:
            blob = to_blob(tensors[name], self._datatypes[name])
            pieces += (_RAW, varint(len(blob)), blob)
        return b"".join(pieces)

    def encode_rows(self, arrays: dict[str, Array], form: Form) -> list[bytes]:
        """A framed answer for each row of a batch, raw; only for outputs of fixed size."""
        names = form.names or self._names
        columns: list[list[bytes]] = []
        shapes: list[Shape] = []
        template = b""
        for name in names:
            array = arrays[name]
            blob, rows = to_blob(array, self._datatypes[name]), len(array)
            size = len(blob) // rows
            columns.append(
                [blob[start : start + size] for start in range(0, len(blob), size)] if size else [b""] * rows
            )
            shapes.append((1, *array.shape[1:]))
            template += _RAW + varint(size).replace(b"%", b"%%") + b"%b"
        start = self._start + self._head(names, tuple(shapes))
        size = len(start) + len(template.replace(b"%%", b"%") % tuple(column[0] for column in columns))
        head = framed(b"\x00" * size)[:5] + start
        template = head.replace(b"%", b"%%") + template
        return [template % row for row in zip(*columns, strict=True)]

    def encode_row(self, rows: TensorRows, form: Form) -> bytes | None:
        """The framed answer for one row of a batch, whose rows are all encoded at once; None where that cannot be."""
        if rows.stop is None or rows.stop - rows.start != 1 or not form.raw or form.id or not self.fixed_size:
            return None
        owner, bodies = rows.batch.memo
        if owner is None:
            bodies = self.encode_rows(rows.batch.arrays, form)
            rows.batch.memo = ((self, form), bodies)
        elif owner != (self, form):  # somebody else's, who is about to read it again
            return None
        found: bytes = bodies[rows.start]
        return found

    def _head(self, names: tuple[str, ...], shapes: tuple[Shape, ...]) -> bytes:
        """The descriptions of the outputs, encoded once for the same shapes."""
        head = self._heads.get((names, shapes))
        if head is None:
            described = zip(names, shapes, strict=True)
            head = b"".join(
                field(_OUTPUTS, self._described(name, shape).SerializeToString()) for name, shape in described
            )
            if len(self._heads) < _MANY_SHAPES:
                self._heads[names, shapes] = head
        return head

    def _described(self, name: str, shape: Shape) -> Any:
        return _OutputTensor(name=name, datatype=self._datatypes[name], shape=shape)

    def _typed(self, name: str, array: Array) -> bytes:
        datatype = self._datatypes[name]
        tensor = self._described(name, array.shape)
        if datatype in _AS_BYTES:
            contents = field(_AS_BYTES[datatype], array.tobytes())
            return field(_OUTPUTS, tensor.SerializeToString() + field(_CONTENTS, contents))
        values = array.ravel().tolist()
        if datatype == "BYTES":
            values = [item.encode() if isinstance(item, str) else bytes(item) for item in values]
        tensor.contents.CopyFrom(_Contents(**{FIELDS[datatype]: values}))
        return field(_OUTPUTS, tensor.SerializeToString())


def streamed(answer: bytes) -> bytes:
    """A ModelStreamInferResponse around an encoded ModelInferResponse, framed."""
    return framed(field(_ANSWER, answer))


def field(tag: bytes, data: bytes) -> bytes:
    """One field of a message, of bytes, a text or a message."""
    return tag + varint(len(data)) + data


def varint(number: int) -> bytes:
    """A number of 0 or more, seven bits at a time."""
    if number < 0x80:
        return bytes([number])
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)
