"""V2's JSON messages: what a request says, checked, before any tensor is read.

The common request, flat JSON numbers for one input, takes a short way through a typed decoder; everything else the
careful way. v2.py calls it, and v2_inputs.py for what inputs and outputs look like.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import msgspec

from berth.errors import InputError
from berth.protocols.nesting import check_depth, check_nesting
from berth.protocols.numbers import LARGE, Numbers, cut_numbers, which
from berth.tensors import Packing

INPUT_STATUS = 400
Blob = bytes | memoryview
NO_DATA = msgspec.Raw(b"")
_MARK_BYTES = 64  # a mark is shorter
Parameters = dict[str, Any]


class InferInput(msgspec.Struct):
    """One input of a request; `data` is raw JSON, or plain lists when the body was read the careful way."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: msgspec.Raw = NO_DATA
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
decode_any = msgspec.json.Decoder().decode


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
        mark = which(decode_any(data) if isinstance(data, msgspec.Raw) and len(data) < _MARK_BYTES else data)
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


def flag_of(parameters: Parameters, name: str) -> bool:
    """A parameter that is true or false, and false if it is not there."""
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
