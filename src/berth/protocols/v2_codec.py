"""V2 tensors <-> bytes: JSON data (flat or nested), binary data, and the checks between them.

The common request, flat JSON numbers for one input, takes a short way through typed decoders; everything else (nested
data, NaN as bare tokens, BYTES, binary) takes the careful way. Every error says what was expected and what came.
v2.py calls it, and v2_grpc_codec.py for what both have in common.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from berth.bfloat16 import ITEM_BYTES, narrow, widen
from berth.errors import InputError
from berth.protocols.base import Refusal
from berth.protocols.nesting import check_depth, check_nesting
from berth.protocols.numbers import LARGE, Numbers, cut_numbers, which
from berth.tensors import Array, Packing, Shape, TensorRows, TensorSpec, coerce, fits

INPUT_STATUS = 400
Blob = bytes | memoryview
_NO_DATA = msgspec.Raw(b"")
_MARK_BYTES = 64  # a mark is shorter
_NO_JSON = frozenset({"FP16", "BF16"})
Parameters = dict[str, Any]


class InferInput(msgspec.Struct):
    """One input of a request; `data` is raw JSON, or plain lists when the body was read the careful way."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: msgspec.Raw = _NO_DATA
    parameters: Parameters | None = None


class InferOutput(msgspec.Struct):
    """One output that the caller names."""

    name: str
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct):
    """The envelope; fields that V2 does not know are ignored."""

    inputs: list[InferInput]
    id: str | None = None
    outputs: list[InferOutput] | None = None
    parameters: Parameters | None = None


class _LooseInput(InferInput):
    data: Any = None


class _LooseRequest(InferRequest):
    inputs: list[_LooseInput]  # type: ignore[assignment]


class Wanted(msgspec.Struct, frozen=True):
    """What a caller wants back: names (None: all), which of them binary, and the id to echo."""

    names: tuple[str, ...] | None = None
    binary: bool = False
    overrides: dict[str, bool] = {}
    id: str | None = None

    def is_binary(self, name: str) -> bool:
        """Whether this output travels as bytes behind the JSON."""
        return self.overrides.get(name, self.binary)


_decode_request = msgspec.json.Decoder(InferRequest).decode
_decode_floats = msgspec.json.Decoder(list[float]).decode
_decode_ints = msgspec.json.Decoder(list[int]).decode
_decode_any = msgspec.json.Decoder().decode
_encode_json = msgspec.json.Encoder().encode


def parse_infer_request(body: bytes) -> InferRequest:
    """The envelope of a request; InputError for malformed JSON or a wrong shape of the envelope."""
    if len(body) >= LARGE:
        skeleton, numbers = cut_numbers(body)
        if numbers:
            return _parse_around(skeleton, numbers)
    try:
        message = _decode_request(body)
    except msgspec.ValidationError as error:
        raise InputError(f"the inference request does not fit V2: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = _parse_with_nan(body)
    check_parameters(message, *message.inputs)
    return message


def check_parameters(message: InferRequest, *inputs: InferInput) -> None:
    """InputError when parameters, which may hold anything, are nested too deeply."""
    for part in (message, *inputs, *(message.outputs or ())):
        if part.parameters:
            check_depth(part.parameters)


def _parse_around(skeleton: bytes, numbers: Sequence[Numbers]) -> InferRequest:
    """The envelope, with the arrays that were cut out of it in their places."""
    message = parse_infer_request(skeleton)
    for item in message.inputs:
        data: Any = item.data
        mark = which(_decode_any(data) if isinstance(data, msgspec.Raw) and len(data) < _MARK_BYTES else data)
        if mark is not None and mark < len(numbers):
            item.data = numbers[mark]  # type: ignore[assignment]
    return message


def _parse_with_nan(body: bytes) -> InferRequest:
    """As Python's json reads it, which takes NaN and Infinity as bare tokens."""
    check_nesting(body)
    try:
        return msgspec.convert(json.loads(body), _LooseRequest)
    except msgspec.ValidationError as error:
        raise InputError(f"the inference request does not fit V2: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not valid JSON: {error}") from error


class ShortWay:
    """The common request for a model with one small numeric input: decoded, checked and packed in one go."""

    def __init__(self, packing: Packing) -> None:
        number = float if packing.dtype.kind == "f" else int
        shape: Any = (Annotated[int, msgspec.Meta(ge=1)], *(Literal[size] for size in packing.tail))
        fields: list[Any] = [
            ("name", Literal[packing.name]),
            ("shape", tuple[shape]),
            ("datatype", Literal[packing.datatype]),
            ("data", list[number]),  # type: ignore[valid-type]
            ("parameters", None, None),
        ]
        item = msgspec.defstruct("ShortInput", fields)
        request = msgspec.defstruct("ShortRequest", [("inputs", tuple[item])], bases=(InferRequest,))  # type: ignore[valid-type]
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(request).decode
        self._row = packing.row_size
        self._pack = packing.pack

    def read(self, body: bytes) -> tuple[InferRequest, list[bytes], int] | None:
        """The envelope, its one call and the rows of it; None for what the careful way has to see, and to refuse."""
        try:
            message: InferRequest = self._decode(body)
            item: Any = message.inputs[0]
            values = item.data
            rows: int = item.shape[0]
            if len(values) != rows * self._row:
                return None
            return message, [self._pack(values)], rows
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, struct.error):
            return None


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
    if slot.datatype in _NO_JSON or slot.datatype == "BYTES":
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
    if data is None or data == _NO_DATA:
        if item.parameters and "shared_memory_region" in item.parameters:
            raise Refusal(501, f"input {slot.name!r}: shared memory regions are not offered; send the data itself")
        raise InputError(f"input {slot.name!r}: expected data, or binary_data_size in its parameters; got neither")
    if slot.datatype in _NO_JSON:
        raise InputError(f"input {slot.name!r}: {slot.datatype} has no JSON form; send it as binary data")
    if isinstance(data, msgspec.Raw):
        check_nesting(bytes(data))
    try:
        values = _decode_any(data) if isinstance(data, msgspec.Raw) else data
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


class _Output(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: Shape
    data: Any = msgspec.UNSET
    parameters: Any = msgspec.UNSET


class _Answer(msgspec.Struct, frozen=True):
    model_name: str
    model_version: str
    outputs: list[_Output]
    id: Any = msgspec.UNSET


_HOLE = "\x00data"  # no name has a NUL in it
_MANY_SHAPES = 256


class Outputs:
    """Encodes the outputs of one model."""

    def __init__(self, specs: Sequence[TensorSpec], model: str, version: str) -> None:
        self._model = model
        self._version = version
        self._names = tuple(spec.name for spec in specs)
        self._datatypes = {spec.name: spec.datatype for spec in specs}
        self._templates: dict[tuple[Shape, ...], bytes] = {}
        self.plain = all(spec.datatype != "BYTES" and spec.datatype not in _NO_JSON for spec in specs)

    def wanted(self, message: InferRequest) -> Wanted:
        """What the request asks for; InputError for an output that the model has not."""
        parameters = message.parameters or {}
        names: tuple[str, ...] | None = None
        overrides: dict[str, bool] = {}
        if message.outputs:
            names = tuple(output.name for output in message.outputs)
            check_once(names)
            for output in message.outputs:
                self._check(output)
                if output.parameters and "binary_data" in output.parameters:
                    overrides[output.name] = _flag(output.parameters, "binary_data")
        return Wanted(names, _flag(parameters, "binary_data_output"), overrides, message.id)

    def encode_row(self, rows: TensorRows) -> bytes | None:
        """The JSON answer for one row of a batch, whose rows are all encoded at once; None where that cannot be."""
        if rows.stop is not None and rows.stop - rows.start != 1:
            return None
        batch = rows.batch
        owner, bodies = batch.memo
        if owner is not self:
            bodies = self.encode_rows(batch.arrays)
            batch.memo = (self, bodies)
        return bodies[rows.start] if bodies and (rows.stop is not None or len(bodies) == 1) else None

    def encode_rows(self, arrays: dict[str, Array]) -> list[bytes]:
        """One body per row; none when a number has no JSON form."""
        columns: list[list[bytes]] = []
        shapes: list[Shape] = []
        for name in self._names:
            array = arrays[name]
            text = _encode_json(array.reshape(len(array), -1).tolist())
            if b"null" in text:
                return []
            columns.append(text[2:-2].split(b"],["))
            shapes.append(array.shape[1:])
        template = self._template(tuple(shapes))
        return [template % row for row in zip(*columns, strict=True)]

    def _template(self, shapes: tuple[Shape, ...]) -> bytes:
        """The body of a one-row answer, with a place for the data of each output."""
        template = self._templates.get(shapes)
        if template is None:
            specs = zip(self._datatypes.items(), shapes, strict=True)
            outputs = [_Output(name, datatype, (1, *shape), _HOLE) for (name, datatype), shape in specs]
            body = _encode_json(_Answer(self._model, self._version, outputs))
            template = body.replace(b"%", b"%%").replace(_encode_json(_HOLE), b"[%b]")
            if len(self._templates) < _MANY_SHAPES:
                self._templates[shapes] = template
        return template

    def encode_all(self, tensors: dict[str, Array]) -> bytes:
        """Every output as JSON: the short way, for requests that ask for nothing in particular."""
        if not self.plain:
            return self.encode(tensors, Wanted())[0]
        outputs = []
        for name, datatype in self._datatypes.items():
            array = tensors[name]
            outputs.append(_Output(name, datatype, array.shape, array.ravel().tolist()))
        body = _encode_json(_Answer(self._model, self._version, outputs))
        return body if b"null" not in body else self.encode(tensors, Wanted())[0]

    def encode(self, tensors: dict[str, Array], wanted: Wanted) -> tuple[bytes, int | None]:
        """The body, and the length of its JSON part when binary data follows it."""
        outputs: list[_Output] = []
        blobs: list[bytes] = []
        for name in wanted.names or self._names:
            array, datatype = tensors[name], self._datatypes[name]
            if wanted.is_binary(name):
                blobs.append(to_blob(array, datatype))
                outputs.append(_Output(name, datatype, array.shape, parameters={"binary_data_size": len(blobs[-1])}))
            else:
                outputs.append(_Output(name, datatype, array.shape, msgspec.Raw(self._data(name, array))))
        identity = msgspec.UNSET if wanted.id is None else wanted.id
        header = _encode_json(_Answer(self._model, self._version, outputs, identity))
        if not any(blobs):
            return header, None
        return header + b"".join(blobs), len(header)

    def _check(self, output: InferOutput) -> None:
        if output.name not in self._datatypes:
            known = ", ".join(repr(name) for name in self._names)
            raise InputError(f"unexpected output {output.name!r}; the model answers {known}")
        if output.parameters and output.parameters.get("classification"):
            raise Refusal(501, f"output {output.name!r}: the classification extension is not offered")
        if output.parameters and "shared_memory_region" in output.parameters:
            raise Refusal(501, f"output {output.name!r}: shared memory regions are not offered; ask for binary_data")

    def _data(self, name: str, array: Array) -> bytes:
        datatype = self._datatypes[name]
        if datatype in _NO_JSON:
            raise InputError(f"output {name!r}: {datatype} has no JSON form; ask for binary_data")
        values = array.ravel().tolist()
        if datatype == "BYTES":
            values = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in values]
        data = _encode_json(values)
        if array.dtype.kind == "f" and b"null" in data:
            return json.dumps(values).encode()  # NaN and infinities travel as bare tokens
        return data


def check_once(outputs: Sequence[str]) -> None:
    """InputError for an output that is asked for twice: answers could be made any size."""
    seen: set[str] = set()
    for name in outputs:
        if name in seen:
            raise InputError(f"output {name!r} occurs twice")
        seen.add(name)


def to_blob(array: Array, datatype: str) -> bytes:
    """An array as binary data."""
    if datatype == "BF16":
        return narrow(array).tobytes()
    if datatype != "BYTES":
        return array.tobytes()
    pieces: list[bytes] = []
    for item in array.ravel().tolist():
        data = item.encode() if isinstance(item, str) else bytes(item)
        pieces += (struct.pack("<I", len(data)), data)
    return b"".join(pieces)


def _flag(parameters: Parameters, name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"parameter {name!r}: expected true or false, got {msgspec.json.encode(value).decode()}")
    return value


def timeout_of(parameters: dict[str, Any] | None) -> float | None:
    """The caller's own deadline: V2's reserved parameter `timeout`, in microseconds."""
    timeout = (parameters or {}).get("timeout")
    if timeout is None:
        return None
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
        raise InputError(f"parameter 'timeout': expected microseconds, got {msgspec.json.encode(timeout).decode()}")
    return timeout / 1e6 if timeout else None


def priority_of(parameters: dict[str, Any] | None) -> int:
    """V2's reserved parameter `priority`: 1 goes before 2 and so on; 0, the default, after all."""
    priority = (parameters or {}).get("priority", 0)
    if not isinstance(priority, int) or isinstance(priority, bool) or priority < 0:
        raise InputError(f"parameter 'priority': expected 0 or more, got {msgspec.json.encode(priority).decode()}")
    return priority
