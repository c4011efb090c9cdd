"""How a peer is asked: one request, built once, and how its answer is read. Called by the peers' declarations.

Three forms that several peers share: V2 JSON, V2 binary tensors, and ModelInfer over gRPC (its few protobuf fields are
written here by hand, so that the harness needs no generated code); and a raw float32 body for those that speak none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.models import Floats, Model

PROTOCOLS = ("json", "binary", "grpc")
INFER = "/v2/models/model/infer"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Answer:
    """What came back. Header names in lower case; status 0 and no headers for gRPC."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, eq=False)
class Ask:
    """One request over one protocol, in a form with a name for the table, and how to read the answer's `Y`."""

    protocol: str
    form: str
    path: str
    body: bytes
    read: Callable[[Answer], Floats]
    headers: Mapping[str, str] = field(default_factory=dict)
    weights: Path | None = None  # the ONNX model behind a small gRPC question, for a generator that asks other rows too


def v2_json(model: Model, path: str = INFER) -> Ask:
    """V2 with the numbers in JSON, flat."""
    body = json.dumps({"inputs": [_input(model) | {"data": _numbers(model.question)}]}, separators=(",", ":"))
    return Ask("json", "V2 JSON", path, body.encode(), read_v2_json, {"Content-Type": "application/json"})


def v2_binary(model: Model, path: str = INFER) -> Ask:
    """V2 with the binary tensor extension, asked for on both ways."""
    raw = model.question.tobytes()
    asked = {
        "inputs": [_input(model) | {"parameters": {"binary_data_size": len(raw)}}],
        "outputs": [{"name": "Y", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(asked, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Ask("binary", "V2 binary", path, head + raw, _read_v2_binary, headers)


def raw_floats(model: Model, path: str) -> Ask:
    """The floats and nothing else, both ways: what a server without a binary protocol can be made to speak."""
    headers = {"Content-Type": "application/octet-stream"}
    body = model.question.tobytes()
    return Ask("binary", "raw float32", path, body, _read_raw, headers)


def form_file(model: Model, path: str) -> Ask:
    """The floats as the file `data` of a form; the answer is floats and nothing else."""
    mark = "frontier-of-the-form"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="data"; filename="X"\r\n'
    kind = "Content-Type: application/octet-stream\r\n\r\n"
    body = (head + kind).encode() + model.question.tobytes() + f"\r\n--{mark}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    return Ask("binary", "float32 file in a form", path, body, _read_raw, headers)


def v2_grpc(model: Model) -> Ask:
    """ModelInfer with raw_input_contents."""
    dimensions = b"".join(_varint(size) for size in model.question.shape)
    tensor = _text(1, b"X") + _text(2, b"FP32") + _text(3, dimensions)
    body = _text(1, b"model") + _text(5, tensor) + _text(7, model.question.tobytes())
    small = model.name in {"tiny", "medium"}
    weights = model.folder / f"{model.name}.onnx" if small else None
    return Ask("grpc", "ModelInfer", MODEL_INFER, body, _read_grpc, weights=weights)


def own_json(path: str, asked: Any, read: Callable[[Any], Any], form: str) -> Ask:
    """The peer's own JSON; `read` takes the decoded answer to the numbers of `Y`."""
    body = json.dumps(asked, separators=(",", ":")).encode()
    return Ask(
        "json",
        form,
        path,
        body,
        lambda answer: np.array(read(json.loads(answer.body)), np.float32),
        {"Content-Type": "application/json"},
    )


def rows(model: Model) -> list[Any]:
    """The question as nested lists of the shortest decimals that name the same floats."""
    numbers = iter(_numbers(model.question))
    return _nested(model.question.shape, numbers)


def read_v2_json(answer: Answer) -> Floats:
    """`Y` of a V2 answer in JSON."""
    return np.array(json.loads(answer.body)["outputs"][0]["data"], np.float32)


def _read_raw(answer: Answer) -> Floats:
    return np.frombuffer(answer.body, np.float32)


def _input(model: Model) -> dict[str, Any]:
    return {"name": "X", "shape": list(model.question.shape), "datatype": "FP32"}


def _numbers(array: Floats) -> list[float]:
    return [float(str(value)) for value in array.ravel()]


def _nested(shape: tuple[int, ...], numbers: Iterator[float]) -> list[Any]:
    if len(shape) == 1:
        return [next(numbers) for _ in range(shape[0])]
    return [_nested(shape[1:], numbers) for _ in range(shape[0])]


def _read_v2_binary(answer: Answer) -> Floats:
    length = int(answer.headers["inference-header-content-length"])
    output = json.loads(answer.body[:length])["outputs"][0]
    size = int(output["parameters"]["binary_data_size"])
    return np.frombuffer(answer.body[length : length + size], np.float32)


def _read_grpc(answer: Answer) -> Floats:
    """raw_output_contents (6), or the output's (5) typed contents (5), whose fp32_contents (6) are packed."""
    typed = b""
    for number, value in _fields(answer.body):
        if number == 6:
            return np.frombuffer(value, np.float32)
        if number == 5:
            typed = value
    contents = dict(_fields(typed)).get(5, b"")
    return np.frombuffer(dict(_fields(contents)).get(6, b""), np.float32)


def _text(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message; varints are passed over."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        size, at = _read_varint(message, at)
        if key & 7 == 2:
            yield key >> 3, message[at : at + size]
            at += size
        elif key & 7:
            raise ValueError(f"a protobuf field of wire type {key & 7} was not expected in an answer")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        shift += 7
        if byte < 128:
            return value, at
