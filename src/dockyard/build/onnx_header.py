"""The inputs and outputs of an ONNX model, read off the file without loading it or its weights.

The file is a protobuf message; weights inside it are passed over where they lie, so gigabytes cost nothing. Called by
`signatures`. Sources: onnx.proto3 (field numbers), protobuf's encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dockyard.spec.signature import Tensor

# TensorProto.DataType -> a datatype of the V2 protocol, as berth says it.
_DATATYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "BYTES", 9: "BOOL",
    10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip
_GRAPH = 7  # ModelProto
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12  # GraphProto
_TENSOR_NAME = 8  # TensorProto
_NAME, _TYPE = 1, 2  # ValueInfoProto
_TENSOR_TYPE = 1  # TypeProto
_ELEMENT, _SHAPE = 1, 2  # TypeProto.Tensor
_DIMENSION = 1  # TensorShapeProto, and the size in its dimension
_STEPS_LIMIT = 5_000_000
_TEXT_LIMIT = 1 << 16


def read_onnx(file: Path) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs (without those that have a value of their own in the file) and outputs; ValueError when it is no model."""
    with file.open("rb") as stream:
        message = _Message(stream, file.stat().st_size)
        initialized: set[str] = set()
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        for graph in message.parts(_GRAPH):
            for field, part in graph.fields():
                if field == _INITIALIZER:
                    initialized.update(name.text() for name in part.parts(_TENSOR_NAME))
                elif field in (_INPUT, _OUTPUT):
                    (inputs if field == _INPUT else outputs).append(_tensor(part))
        if not outputs:
            raise ValueError("no ONNX model: it has no outputs")
        return tuple(one for one in inputs if one.name not in initialized), tuple(outputs)


def _tensor(value: _Message) -> Tensor:
    name, datatype = "", ""
    shape: tuple[int, ...] = ()
    for field, part in value.fields():
        if field == _NAME:
            name = part.text()
        elif field == _TYPE:
            for tensor in part.parts(_TENSOR_TYPE):
                datatype, shape = _type(tensor)
    return Tensor(name, datatype or "no tensor", shape)


def _type(tensor: _Message) -> tuple[str, tuple[int, ...]]:
    datatype = ""
    shape: list[int] = []
    for field, part in tensor.fields():
        if field == _ELEMENT:
            datatype = _DATATYPES.get(part.number, f"type {part.number}")
        elif field == _SHAPE:
            for dimension in part.parts(_DIMENSION):
                sizes = [size.number for number, size in dimension.fields() if number == _DIMENSION]
                shape.append(sizes[-1] if sizes else -1)
    return datatype, tuple(shape)


class _Message:
    """A stretch of a file that holds a message, a text or (`number`) the value of a field."""

    def __init__(self, stream: BinaryIO, end: int, *, start: int = 0, number: int = 0, steps: list[int] | None = None):
        self.number = number
        self._stream = stream
        self._start = start
        self._end = end
        self._steps = steps if steps is not None else [0]

    def text(self) -> str:
        if self._end - self._start > _TEXT_LIMIT:
            raise ValueError("a name is too long")
        self._stream.seek(self._start)
        return self._stream.read(self._end - self._start).decode("utf-8", "replace")

    def parts(self, wanted: int) -> Iterator[_Message]:
        """The values of one field that have a length."""
        return (part for field, part in self.fields() if field == wanted)

    def fields(self) -> Iterator[tuple[int, _Message]]:
        """Each field's number and value."""
        place = self._start
        while place < self._end:
            self._steps[0] += 1
            if self._steps[0] > _STEPS_LIMIT:
                raise ValueError("it has too many parts")
            self._stream.seek(place)
            key = self._varint()
            field, kind = key >> 3, key & 7
            length = {1: 8, 5: 4}.get(kind, 0)
            value = self._varint() if kind in (0, 2) else 0
            start = self._stream.tell()
            end = start + (value if kind == 2 else length)
            if kind not in (0, 1, 2, 5) or end > self._end:
                raise ValueError("no protobuf message")
            yield field, _Message(self._stream, end, start=start, number=_signed(value), steps=self._steps)
            place = end

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._stream.read(1)
            if not byte:
                raise ValueError("it is cut off")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
        raise ValueError("no protobuf message")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
