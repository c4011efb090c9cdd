"""The ground rules that clients of the Open Inference Protocol rely on, one by one, beyond what test_v2.py shows."""

from __future__ import annotations

import gzip
import json
import math
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.berth.support import Answer, Berth, predictor, read_answers, serving

INFER = "/v2/models/double/infer"
LENGTH = "Inference-Header-Content-Length"
NUMBERS = np.array([[1, 2], [3, 4]], "<f4")
BINARY = {"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
JSON = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}


def binary(server: Berth, message: dict[str, Any], blob: bytes, headers: dict[str, str] | None = None) -> Answer:
    head = json.dumps(message).encode()
    return server.post(INFER, head + blob, {LENGTH: str(len(head)), **(headers or {})})


def doubled(answer: Answer) -> bool:
    """Whether the answer, in either form, is twice NUMBERS."""
    length = answer.headers.get(LENGTH)
    if length is None:
        return bool(answer.json["outputs"][0]["data"] == [2, 4, 6, 8])
    return answer.body[int(length) :] == (NUMBERS * 2).tobytes()


# 1. What the body is, its length header says, and never its Content-Type.


@pytest.mark.parametrize("kind", [None, "application/json", "application/octet-stream", "text/plain", "nonsense"])
def test_the_length_header_alone_says_what_the_body_is(onnx_server: Berth, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert doubled(onnx_server.post(INFER, json.dumps({"inputs": [JSON]}).encode(), headers))
    assert doubled(binary(onnx_server, {"inputs": [BINARY]}, NUMBERS.tobytes(), headers))
    assert doubled(binary(onnx_server, {"inputs": [JSON]}, b"", headers))
    raw = onnx_server.post(INFER, NUMBERS[:1].tobytes(), {LENGTH: "0", **headers})
    assert raw.body.endswith((NUMBERS[:1] * 2).tobytes())


def test_json_and_binary_inputs_may_be_mixed(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "pair.onnx"), MODEL_NAME="double") as server:
        a = {"name": "a", "shape": [2], "datatype": "FP64", "data": [1, 2]}
        b = {"name": "b", "shape": [2], "datatype": "FP64", "parameters": {"binary_data_size": 16}}
        blob = np.array([10, 20], "<f8").tobytes()
        for inputs in ([a, b], [b, a]):
            assert binary(server, {"inputs": inputs}, blob).json["outputs"][0]["data"] == [11, 22]
        first = {**b, "name": "a"}
        both = binary(server, {"inputs": [b, first]}, blob + np.array([1, 2], "<f8").tobytes())
        assert both.json["outputs"][0]["data"] == [11, 22]
        few = binary(server, {"inputs": [b, first]}, blob + b"1234")
        assert few.status == 400
        assert "input 'a': 12 bytes are missing" in few.json["error"]
        raw = server.post(INFER, blob, {LENGTH: "0"})
        assert raw.status == 400
        assert "a model with one input; this one takes 'a', 'b'" in raw.json["error"]


def test_a_raw_request_may_leave_one_dimension_open(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "wide.onnx"), MODEL_NAME="double") as server:
        for columns in (1, 5):
            row = np.arange(columns, dtype="<f4")
            answer = server.post(INFER, row.tobytes(), {LENGTH: "0"})
            length = int(answer.headers[LENGTH])
            assert json.loads(answer.body[:length])["outputs"][0]["shape"] == [1, columns]
            assert answer.body[length:] == (row * 2).tobytes()
        assert "multiple of 4 bytes, got 5" in server.post(INFER, b"12345", {LENGTH: "0"}).json["error"]


def test_a_raw_request_for_text_is_one_element(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "text.onnx"), MODEL_NAME="double") as server:
        answer = server.post(INFER, "any \u00e4".encode(), {LENGTH: "0"})
        assert answer.body.endswith(struct.pack("<I", 6) + "any \u00e4".encode())


# 2. binary_data_output is the default for all outputs, binary_data decides for one.


@pytest.mark.parametrize(
    ("everything", "one", "expected"),
    [
        (None, None, False),
        (True, None, True),
        (False, None, False),
        (True, False, False),
        (True, True, True),
        (False, True, True),
        (None, True, True),
    ],
)
def test_the_form_of_an_output(onnx_server: Berth, everything: bool | None, one: bool | None, expected: bool) -> None:
    message: dict[str, Any] = {"inputs": [JSON]}
    if everything is not None:
        message["parameters"] = {"binary_data_output": everything}
    if one is not None:
        message["outputs"] = [{"name": "y", "parameters": {"binary_data": one}}]
    answer = onnx_server.post(INFER, message)
    assert (LENGTH in answer.headers) is expected
    assert doubled(answer)


def test_no_length_header_when_every_blob_is_empty(onnx_server: Berth) -> None:
    empty = {"name": "x", "shape": [0, 2], "datatype": "FP32", "parameters": {"binary_data_size": 0}}
    answer = binary(onnx_server, {"inputs": [empty], "parameters": {"binary_data_output": True}}, b"")
    assert LENGTH not in answer.headers
    (output,) = answer.json["outputs"]
    assert output == {"name": "y", "datatype": "FP32", "shape": [0, 2], "parameters": {"binary_data_size": 0}}


# 4. Health in bodies that KServe's client reads.


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/v2/health/live", 200, {"live": True}),
        ("/v2/health/ready", 503, {"ready": False, "error": "the server is draining"}),
        ("/readyz", 503, {"ready": False, "error": "the server is draining"}),
        ("/v2/models/double/ready", 503, {"name": "double", "ready": False, "error": "the server is draining"}),
    ],
)
def test_a_server_that_stops_says_so_in_its_health_bodies(path: str, status: int, body: dict[str, Any]) -> None:
    with serving(**predictor("Echo", MODEL_NAME="double")) as server, server.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHo".encode())  # begun before the stop, so it is waited for
        assert server.get("/v2").status == 200  # by now the beginning has been read
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_event("draining")
        connection.sendall(b"st: x\r\n\r\n")
        (answer,) = read_answers(connection, 1)
    assert (answer.status, answer.json) == (status, body)


def test_never_ready_without_a_model() -> None:
    with serving(**predictor("Echo", MODEL_CONTROL="on")) as server:
        assert server.get("/v2/health/ready").status == 200
        server.post("/v2/repository/models/model/unload")
        for path in ("/v2/health/ready", "/readyz"):
            answer = server.get(path)
            assert (answer.status, answer.json) == (503, {"ready": False, "error": "no model is loaded"})
        assert server.get("/v2/models/model/ready").status == 404
        server.post("/v2/repository/models/model/load")
        assert server.get("/v2/health/ready").status == 200


# 5. and 8. Errors are {"error": text}, as application/json and nothing else.


@pytest.mark.parametrize(
    ("status", "ask"),
    [
        (400, lambda server: server.post(INFER, b"{")),
        (400, lambda server: server.post(INFER, b"x", {LENGTH: "7"})),
        (400, lambda server: server.ask("POST", INFER, b"{}", {"X-Request-Timeout": "soon"})),
        (400, lambda server: server.post("/v2/repository/index", b"[]")),
        (403, lambda server: server.post("/v2/repository/models/double/load")),
        (404, lambda server: server.get("/v2/models/nobody")),
        (404, lambda server: server.get("/v2/nothing")),
        (404, lambda server: server.get("/v2/models/double/versions/9")),
        (405, lambda server: server.get(INFER)),
        (405, lambda server: server.ask("DELETE", "/v2/models/double")),
        (405, lambda server: server.post("/v2/health/ready")),
        (405, lambda server: server.get("/v2/repository/models/double/load")),
        (405, lambda server: server.ask("PATCH", "/v2")),
        (415, lambda server: server.post(INFER, b"{}", {"Content-Encoding": "zstd"})),
        (501, lambda server: server.get("/v2/systemsharedmemory/status")),
        (501, lambda server: server.post("/v2/logging", {})),
    ],
)
def test_an_error_is_json_with_one_text(onnx_server: Berth, status: int, ask: Callable[[Berth], Answer]) -> None:
    answer = ask(onnx_server)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    assert list(answer.json) == ["error"]
    assert isinstance(answer.json["error"], str)
    assert ("Allow" in answer.headers) is (status == 405)


def test_answers_are_application_json_without_a_charset(onnx_server: Berth) -> None:
    for path in ("/v2", "/v2/models", "/v2/models/double", "/v2/models/double/ready", "/v2/health/live", "/livez"):
        assert onnx_server.get(path).headers["Content-Type"] == "application/json"
    assert onnx_server.post(INFER, {"inputs": [JSON]}).headers["Content-Type"] == "application/json"


# 6. model_name always, id only if given, and whatever V2 does not know is passed over.


@pytest.mark.parametrize("identity", ["7", "", '\u00e4 "quoted" \n', "x" * 5000])
def test_an_id_comes_back_as_it_was(onnx_server: Berth, identity: str) -> None:
    answer = onnx_server.post(INFER, {"inputs": [JSON], "id": identity}).json
    assert answer["id"] == identity
    assert answer["model_name"] == "double"


def test_unknown_fields_are_ignored_at_every_level(onnx_server: Berth) -> None:
    message = {
        "inputs": [{**JSON, "layout": "NCHW", "parameters": {"content_type": "np", "deep": {"er": [1]}}}],
        "outputs": [{"name": "y", "shape": [1], "parameters": {"other": 1}, "datatype": "FP64"}],
        "parameters": {"triton_enable": True, "custom": [1, {"a": None}], "sequence_id": "s", "sequence_start": True},
        "model_name": "somebody else",
        "trace": None,
    }
    answer = onnx_server.post(INFER, message)
    assert doubled(answer)
    assert "parameters" not in answer.json


# 7. Compression: the header's length is that of the unfolded JSON, both ways.


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_binary_request(onnx_server: Berth, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    head = json.dumps({"inputs": [BINARY]}).encode()
    body = pack(head + NUMBERS.tobytes())
    assert doubled(onnx_server.post(INFER, body, {LENGTH: str(len(head)), "Content-Encoding": encoding}))
    too_long = onnx_server.post(INFER, body, {LENGTH: str(len(head) + 17), "Content-Encoding": encoding})
    assert too_long.status == 400
    assert f"from 0 to {len(head) + 16}" in too_long.json["error"]


@pytest.mark.parametrize(("encoding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_a_compressed_binary_answer(onnx_server: Berth, encoding: str, unpack: Callable[[bytes], bytes]) -> None:
    numbers = np.arange(2000, dtype="<f4")
    item = {"name": "x", "shape": [1000, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8000}}
    message = {"inputs": [item], "parameters": {"binary_data_output": True}}
    answer = binary(onnx_server, message, numbers.tobytes(), {"Accept-Encoding": encoding})
    assert answer.headers["Content-Encoding"] == encoding
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    body = unpack(answer.body)
    length = int(answer.headers[LENGTH])
    assert json.loads(body[:length])["outputs"][0]["shape"] == [1000, 2]
    assert body[length:] == (numbers * 2).tobytes()


def test_what_is_said_about_models_is_never_compressed(tmp_path: Path) -> None:
    """The asyncio client of Triton accepts gzip for every answer, and unfolds inference alone."""
    models = [{"name": f"model-{number}", "predictor": "models:Echo"} for number in range(40)]
    (tmp_path / "models.json").write_text(json.dumps(models))
    with serving(MODELS=str(tmp_path / "models.json")) as server:
        for method, path in (("GET", "/v2/models/stats"), ("POST", "/v2/repository/index")):
            answer = server.ask(method, path, headers={"Accept-Encoding": "gzip"})
            assert len(answer.body) > 1024
            assert "Content-Encoding" not in answer.headers
            answer.json  # noqa: B018  it is plain


# 8. Names and versions are whatever the image says.


@pytest.fixture(scope="module")
def oddly_named() -> Iterator[Berth]:
    with serving(**predictor("Structured", MODEL_NAME="a/versions b+%", MODEL_VERSION="v1.0 \u00e4")) as server:
        yield server


@pytest.mark.parametrize("path", ["a/versions%20b%2B%25", "a%2Fversions%20b+%25", "a/versions%20b%2b%25"])
@pytest.mark.parametrize("version", ["", "/versions/v1.0%20%C3%A4"])
def test_any_name_and_any_version_can_be_asked_for(oddly_named: Berth, path: str, version: str) -> None:
    assert oddly_named.get(f"/v2/models/{path}{version}").json["name"] == "a/versions b+%"
    message = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [2]}]}
    answer = oddly_named.post(f"/v2/models/{path}{version}/infer", message)
    assert (answer.status, answer.json["model_version"]) == (200, "v1.0 \u00e4")


# What tensors may be.


def test_every_not_a_number_has_its_token(onnx_server: Berth) -> None:
    body = b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[NaN,Infinity,-Infinity,1]}]}'
    answer = onnx_server.post(INFER, body)
    assert b"[NaN, Infinity, -Infinity, 2.0]" in answer.body
    values = answer.json["outputs"][0]["data"]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, 2.0]


@pytest.mark.parametrize(
    "shape", [[-1, 2], [2, -2], [-(2**63), 2], [2**63, 2], [2**31, 2**31], [2**32, 2**32], [10**30, 0], [3, 3]]
)
@pytest.mark.parametrize("form", ["json", "binary"])
def test_a_shape_that_cannot_be_is_400(onnx_server: Berth, shape: list[int], form: str) -> None:
    if form == "json":
        answer = onnx_server.post(INFER, {"inputs": [{**JSON, "shape": shape}]})
    else:
        answer = binary(onnx_server, {"inputs": [{**BINARY, "shape": shape}]}, NUMBERS.tobytes())
    assert answer.status == 400
    assert "'x'" in answer.json["error"]


@pytest.mark.parametrize("depth", [60, 70, 200, 2000, 100_000])
def test_data_may_be_nested_and_is_refused_when_it_is_too_deep(onnx_server: Berth, depth: int) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":%b1,2%b}]}' % (b"[" * depth, b"]" * depth)
    answer = onnx_server.post(INFER, body)
    assert answer.status == (200 if depth == 60 else 400)


def test_large_whole_numbers_are_exact(tmp_path: Path) -> None:
    with serving(PREDICTOR="models_clients:EveryDatatype", MODEL_NAME="every") as server:
        described = server.get("/v2/models/every").json["inputs"]
        data: dict[str, Any] = {"BOOL": [True, False, True], "BYTES": ["a", "b", "c"], "UINT64": [2**64 - 1, 0, 2**63]}
        head = {
            "inputs": [
                {"name": item["name"], "datatype": item["datatype"], "shape": [1, 3]}
                | (
                    {"parameters": {"binary_data_size": 6}}
                    if item["datatype"] == "FP16"
                    else {"data": data.get(item["datatype"], [1, 2, 3])}
                )
                for item in described
            ],
            "outputs": [{"name": "uint64_out"}],
        }
        text = json.dumps(head).encode()
        path = "/v2/models/every/infer"
        answer = server.post(path, text + b"\0" * 6, {LENGTH: str(len(text))})
        assert answer.json["outputs"][0]["data"] == [2**63, 0, 2**64 - 1]
        too_large = text.replace(str(2**64 - 1).encode(), str(2**64).encode())
        refused = server.post(path, too_large + b"\0" * 6, {LENGTH: str(len(too_large))})
        assert refused.status == 400
        assert "uint64" in refused.json["error"]


def test_bf16_has_no_json_form_and_travels_as_two_bytes() -> None:
    with serving(PREDICTOR="models_clients:Brains", MODEL_NAME="double") as server:
        item = {"name": "bf16_in", "shape": [1, 3], "datatype": "BF16"}
        wrong = server.post(INFER, {"inputs": [{**item, "data": [1, 2, 3]}]})
        assert wrong.status == 400
        assert "BF16 has no JSON form" in wrong.json["error"]
        blob = struct.pack("<3H", 0x3F80, 0xC000, 0x7F80)  # 1, -2, infinity
        sized = {**item, "parameters": {"binary_data_size": 6}}
        answer = binary(server, {"inputs": [sized], "parameters": {"binary_data_output": True}}, blob)
        assert answer.body.endswith(struct.pack("<3H", 0x7F80, 0xC000, 0x3F80))
        assert server.predict(bf16_in=[1, 2, 3]).json == [3, 2, 1]
        raw = server.post(INFER, blob, {LENGTH: "0"})
        assert raw.body.endswith(struct.pack("<3H", 0x7F80, 0xC000, 0x3F80))
        few = binary(server, {"inputs": [{**item, "parameters": {"binary_data_size": 4}}]}, blob[:4])
        assert "expected 6 bytes for shape [1, 3] of BF16, got 4" in few.json["error"]


@pytest.mark.parametrize("value", [1, "true", None, []])
def test_a_flag_is_true_or_false(onnx_server: Berth, value: Any) -> None:
    for message in (
        {"inputs": [JSON], "parameters": {"binary_data_output": value}},
        {"inputs": [JSON], "outputs": [{"name": "y", "parameters": {"binary_data": value}}]},
    ):
        answer = onnx_server.post(INFER, message)
        assert answer.status == 400
        assert "expected true or false" in answer.json["error"]


@pytest.mark.parametrize("parameters", [[1], "soon", 3])
def test_parameters_of_generate_are_an_object(onnx_server: Berth, parameters: Any) -> None:
    answer = onnx_server.post("/v2/models/double/generate", {"x": [[1, 2]], "parameters": parameters})
    assert (answer.status, answer.json) == (400, {"error": "parameters: expected an object"})


@pytest.mark.parametrize("value", ["1" + "0" * 400, "-1" + "0" * 400])
@pytest.mark.parametrize(("path", "status"), [("/v2/models/double/generate", 400), ("/predict", 422)])
def test_a_whole_number_larger_than_any_float_is_refused(
    onnx_server: Berth, path: str, status: int, value: str
) -> None:
    answer = onnx_server.post(path, b'{"x": [[1, %b]]}' % value.encode())
    assert answer.status == status
    assert "got a larger number" in answer.json["error"]


def test_a_raw_request_without_bytes_is_400(onnx_server: Berth) -> None:
    answer = onnx_server.post(INFER, b"", {LENGTH: "0"})
    assert answer.status == 400
    assert "got none" in answer.json["error"]
