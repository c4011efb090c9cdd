"""V2's answers: the outputs of a model as JSON or binary data.

v2.py calls it, v2_express.py for single rows, and v2_grpc_codec.py for what both have in common.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from berth.bfloat16 import narrow
from berth.errors import InputError
from berth.protocols.base import Refusal
from berth.protocols.v2_inputs import NO_JSON, encode_json
from berth.protocols.v2_messages import InferOutput, InferRequest, Wanted, flag_of
from berth.tensors import Array, Shape, TensorRows, TensorSpec


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
        self.plain = all(spec.datatype != "BYTES" and spec.datatype not in NO_JSON for spec in specs)

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
                    overrides[output.name] = flag_of(output.parameters, "binary_data")
        return Wanted(names, flag_of(parameters, "binary_data_output"), overrides, message.id)

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
            text = encode_json(array.reshape(len(array), -1).tolist())
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
            body = encode_json(_Answer(self._model, self._version, outputs))
            template = body.replace(b"%", b"%%").replace(encode_json(_HOLE), b"[%b]")
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
        body = encode_json(_Answer(self._model, self._version, outputs))
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
        header = encode_json(_Answer(self._model, self._version, outputs, identity))
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
        if datatype in NO_JSON:
            raise InputError(f"output {name!r}: {datatype} has no JSON form; ask for binary_data")
        values = array.ravel().tolist()
        if datatype == "BYTES":
            values = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in values]
        data = encode_json(values)
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
