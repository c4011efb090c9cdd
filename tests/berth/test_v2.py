"""The Open Inference Protocol: metadata, JSON and binary tensors, and what is said about tensors that do not fit."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.berth.support import Answer, Berth, predictor, serving

INFER = "/v2/models/double/infer"


def tensor(
    data: Any = (1, 2), shape: Any = (1, 2), datatype: Any = "FP32", name: Any = "x", **more: Any
) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data, **more}


def infer(server: Berth, *inputs: dict[str, Any], path: str = INFER, **more: Any) -> Answer:
    return server.post(path, {"inputs": list(inputs), **more})


def binary(server: Berth, header: dict[str, Any], blob: bytes, path: str = INFER) -> Answer:
    head = json.dumps(header).encode()
    return server.post(path, head + blob, {"Inference-Header-Content-Length": str(len(head))})


def outputs(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    return {item["name"]: item["data"] for item in answer.json["outputs"]}


def test_the_server_describes_itself(onnx_server: Berth) -> None:
    answer = onnx_server.get("/v2").json
    assert answer["name"] == "berth"
    assert answer["extensions"] == [
        "binary_tensor_data",
        "generate",
        "model_configuration",
        "model_repository",
        "statistics",
    ]
    assert onnx_server.get("/v2/models").json == {"models": ["double"]}


@pytest.mark.parametrize("path", ["double", "double/versions/3", "d%6Fuble/versions/3"])
def test_the_model_describes_its_tensors(onnx_server: Berth, path: str) -> None:
    assert onnx_server.get(f"/v2/models/{path}").json == {
        "name": "double",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/double/ready", {"name": "double", "ready": True}),
        ("/v2/models/double/versions/3/ready", {"name": "double", "ready": True}),
        ("/livez", {"live": True}),
        ("/readyz", {"ready": True}),
        ("/healthz", {"live": True}),
    ],
)
def test_health(onnx_server: Berth, path: str, body: dict[str, Any]) -> None:
    answer = onnx_server.get(path)
    assert answer.status == 200
    assert answer.json == body


def test_a_version_that_is_not_loaded_is_not_found(onnx_server: Berth) -> None:
    answer = onnx_server.get("/v2/models/double/versions/7/ready")
    assert answer.status == 404
    assert "no version '7'" in answer.json["error"]
    assert "'3'" in answer.json["error"]


def test_flat_and_nested_data_mean_the_same(onnx_server: Berth) -> None:
    expected = {
        "model_name": "double",
        "model_version": "3",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [2.0, 4.0, 6.0, 8.0]}],
    }
    assert infer(onnx_server, tensor([1, 2, 3, 4], [2, 2])).json == expected
    assert infer(onnx_server, tensor([[1, 2], [3, 4.0]], [2, 2])).json == expected
    assert infer(onnx_server, tensor([[[1], [2]], [[3], [4]]], [2, 2]), path="/v2/models/double/versions/3/infer").json


def test_the_id_is_echoed_and_unknown_fields_are_ignored(onnx_server: Berth) -> None:
    answer = infer(onnx_server, tensor(extra=1), id='a"b', parameters={"sequence_id": 7}, more={})
    assert answer.json["id"] == 'a"b'
    assert "id" not in infer(onnx_server, tensor()).json


def test_the_content_type_does_not_matter(onnx_server: Berth) -> None:
    body = json.dumps({"inputs": [tensor()]}).encode()
    assert onnx_server.post(INFER, body, {"Content-Type": "application/octet-stream"}).status == 200


def test_nan_and_infinity_are_bare_tokens_both_ways(onnx_server: Berth) -> None:
    answer = onnx_server.post(INFER, json.dumps({"inputs": [tensor([math.nan, math.inf])]}).encode())
    assert b"NaN" in answer.body
    assert math.isnan(answer.json["outputs"][0]["data"][0])
    assert answer.json["outputs"][0]["data"][1] == math.inf


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([tensor(name="z")], ["unexpected input 'z'", "'x'"]),
        ([], ["missing input 'x'"]),
        ([tensor(), tensor()], ["twice"]),
        ([tensor(datatype="FP64")], ["expected datatype FP32, got FP64"]),
        ([tensor(datatype="NONSENSE")], ["expected datatype FP32, got NONSENSE"]),
        ([tensor([1, 2, 3], [1, 3])], ["expected shape [-1, 2], got [1, 3]"]),
        ([tensor([1, 2], [2])], ["expected shape [-1, 2], got [2]"]),
        ([tensor([1, 2], [])], ["expected shape [-1, 2], got []"]),
        ([tensor([1, 2], [-1, 2])], ["0 or more"]),
        ([tensor([1, 2], [2**62, 2])], ["elements"]),
        ([tensor([1, 2], [2**70, 2])], ["elements"]),
        ([tensor([1, 2, 3])], ["expected 2 elements", "got 3"]),
        ([tensor([])], ["expected 2 elements", "got 0"]),
        ([tensor(["a", "b"])], ["expected float32, got strings"]),
        ([tensor([True, False])], ["booleans"]),
        ([tensor([[1], [2, 3]])], ["equal length"]),
        ([tensor(None)], ["expected a list"]),
        ([tensor("text")], ["expected a list"]),
        ([{"name": "x", "shape": [1, 2], "datatype": "FP32"}], ["neither"]),
        ([{"name": "x"}], ["shape"]),
        ([tensor(shape="12")], ["$.inputs[0].shape"]),
        ([7], ["$.inputs[0]"]),
    ],
)
def test_a_tensor_that_does_not_fit_is_400_with_expected_and_got(
    onnx_server: Berth, inputs: list[Any], words: list[str]
) -> None:
    answer = infer(onnx_server, *inputs)
    assert answer.status == 400
    assert all(word in answer.json["error"] for word in words), answer.json


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"NaN", b'{"inputs": {}}', b'{"inputs":' + b"[" * 50_000])
def test_a_malformed_request_is_400(onnx_server: Berth, body: bytes) -> None:
    answer = onnx_server.post(INFER, body)
    assert answer.status == 400
    assert answer.json["error"]


def test_an_output_may_be_named_and_an_unknown_one_is_400(onnx_server: Berth) -> None:
    assert outputs(infer(onnx_server, tensor(), outputs=[{"name": "y"}])) == {"y": [2.0, 4.0]}
    wrong = infer(onnx_server, tensor(), outputs=[{"name": "z"}])
    assert wrong.status == 400
    assert "unexpected output 'z'; the model answers 'y'" in wrong.json["error"]
    twice = infer(onnx_server, tensor(), outputs=[{"name": "y"}] * 2)
    assert (twice.status, twice.json) == (400, {"error": "output 'y' occurs twice"})


def test_another_model_is_404_and_names_this_one(onnx_server: Berth) -> None:
    answer = infer(onnx_server, tensor(), path="/v2/models/other/infer")
    assert answer.status == 404
    assert "double" in answer.json["error"]


def test_binary_tensors_travel_both_ways(onnx_server: Berth) -> None:
    data = np.arange(4, dtype="<f4")
    header = {
        "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    answer = binary(onnx_server, header, data.tobytes())
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert json.loads(answer.body[:length])["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}}
    ]
    assert np.array_equal(np.frombuffer(answer.body[length:], "<f4"), data * 2)


def test_binary_output_for_all_can_be_overridden_for_one(onnx_server: Berth) -> None:
    everything = infer(onnx_server, tensor(), parameters={"binary_data_output": True})
    assert "Inference-Header-Content-Length" in everything.headers
    but_one = infer(
        onnx_server,
        tensor(),
        parameters={"binary_data_output": True},
        outputs=[{"name": "y", "parameters": {"binary_data": False}}],
    )
    assert outputs(but_one) == {"y": [2.0, 4.0]}


@pytest.mark.parametrize(
    ("size", "blob", "words"),
    [
        (8, b"\0" * 9, "unexpected additional input data: 1 bytes"),
        (8, b"\0" * 7, "input 'x': 1 bytes are missing"),
        (4, b"\0" * 4, "expected 8 bytes"),
        (-1, b"", "binary_data_size"),
        ("8", b"\0" * 8, "binary_data_size"),
        (True, b"\0", "binary_data_size"),
    ],
)
def test_binary_data_of_the_wrong_size_is_400(onnx_server: Berth, size: Any, blob: bytes, words: str) -> None:
    item = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    answer = binary(onnx_server, {"inputs": [item]}, blob)
    assert answer.status == 400
    assert words in answer.json["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999", "1e3", "9" * 40])
def test_a_wrong_header_length_is_400(onnx_server: Berth, length: str) -> None:
    answer = onnx_server.post(INFER, {"inputs": [tensor()]}, {"Inference-Header-Content-Length": length})
    assert answer.status == 400
    assert "Inference-Header-Content-Length" in answer.json["error"]


def test_a_raw_binary_request_is_one_row(onnx_server: Berth) -> None:
    answer = onnx_server.post(INFER, np.array([1, 2], "<f4").tobytes(), {"Inference-Header-Content-Length": "0"})
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert np.array_equal(np.frombuffer(answer.body[length:], "<f4"), [2, 4])
    wrong = onnx_server.post(INFER, b"12345", {"Inference-Header-Content-Length": "0"})
    assert wrong.status == 400


def test_fp16_has_no_json_form_and_travels_as_bytes(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "half.onnx"), MODEL_NAME="double") as server:
        wrong = infer(server, tensor(datatype="FP16"))
        assert wrong.status == 400
        assert "FP16 has no JSON form" in wrong.json["error"]
        blob = np.array([[1, 2]], "<f2").tobytes()
        item = {"name": "x", "shape": [1, 2], "datatype": "FP16", "parameters": {"binary_data_size": 4}}
        asked = binary(server, {"inputs": [item], "parameters": {"binary_data_output": True}}, blob)
        assert asked.body.endswith(blob)
        assert "binary_data" in binary(server, {"inputs": [item]}, blob).json["error"]
        assert server.post("/predict", {"x": [[1, 2.5]]}).json == {"y": [[1.0, 2.5]]}


def test_bytes_tensors_in_json_and_in_binary(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "text.onnx"), MODEL_NAME="double") as server:
        assert outputs(infer(server, tensor(["a", "\u00e4\u0000"], [2], "BYTES"))) == {"y": ["a", "\u00e4\u0000"]}
        blob = b"".join(struct.pack("<I", len(item)) + item for item in (b"abc", b""))
        item = {"name": "x", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}
        answer = binary(server, {"inputs": [item], "parameters": {"binary_data_output": True}}, blob)
        assert answer.body.endswith(blob)
        cut = binary(server, {"inputs": [item | {"shape": [3]}]}, blob)
        assert cut.status == 400
        assert "expected 3 BYTES elements" in cut.json["error"]


def test_small_integers_are_range_checked(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "bytes.onnx"), MODEL_NAME="double") as server:
        assert outputs(infer(server, tensor([-128, 127], [2], "INT8"))) == {"y": [-128, 127]}
        for data in ([128], [1.5], [2**70], [True]):
            assert infer(server, tensor(data, [1], "INT8")).status == 400


def test_several_inputs_must_agree_on_rows(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "pair.onnx"), MODEL_NAME="double") as server:
        a, b = tensor([1, 2], [2], "FP64", "a"), tensor([3, 4], [2], "FP64", "b")
        assert outputs(infer(server, b, a)) == {"sum": [4.0, 6.0]}
        wrong = infer(server, a, tensor([3], [1], "FP64", "b"))
        assert wrong.status == 400
        assert "same number of rows" in wrong.json["error"]
        assert "missing input 'b'" in infer(server, a).json["error"]
        assert server.post("/predict", {"a": [1], "b": [1, 2]}).status == 422


def test_a_model_with_a_fixed_first_dimension_serves_too(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "fixed.onnx"), MODEL_NAME="double") as server:
        assert outputs(infer(server, tensor())) == {"y": [2.0, 4.0]}
        assert "expected shape [1, 2], got [2, 2]" in infer(server, tensor([1, 2, 3, 4], [2, 2])).json["error"]


@pytest.fixture(scope="module")
def structured() -> Iterator[Berth]:
    with serving(**predictor("Structured", MODEL_NAME="a/b c")) as server:
        yield server


def test_a_model_name_may_need_percent_encoding(structured: Berth) -> None:
    for path in ("/v2/models/a/b%20c", "/v2/models/a%2Fb%20c", "/v2/models/a/b%20c/versions/1"):
        assert structured.get(path).json["name"] == "a/b c"


def test_a_typed_predictor_shows_one_tensor_per_parameter_and_field(structured: Berth) -> None:
    metadata = structured.get("/v2/models/a/b%20c").json
    assert metadata["platform"] == "berth_python"
    assert metadata["inputs"] == [
        {"name": "x", "datatype": "FP64", "shape": [-1]},
        {"name": "label", "datatype": "BYTES", "shape": [-1], "optional": True},
    ]
    assert metadata["outputs"] == [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "score", "datatype": "FP64", "shape": [-1]},
        {"name": "vector", "datatype": "FP32", "shape": [-1, 3]},
    ]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_each_row_of_a_typed_predictor_is_a_call(structured: Berth, shape: list[int]) -> None:
    answer = infer(
        structured,
        tensor([2, 4], shape, "FP64"),
        tensor(["p", "q"], shape, "BYTES", "label"),
        path="/v2/models/a/b%20c/infer",
    )
    assert outputs(answer) == {"label": ["p", "q"], "score": [1.0, 2.0], "vector": [2.0, 2.0, 2.0, 4.0, 4.0, 4.0]}
    assert [item["shape"] for item in answer.json["outputs"]] == [[2], [2], [2, 3]]


def test_rows_of_a_typed_predictor_are_checked(structured: Berth) -> None:
    path = "/v2/models/a/b%20c/infer"
    none = infer(structured, tensor([], [0], "FP64"), path=path)
    assert none.status == 400
    assert "at least one row" in none.json["error"]
    uneven = infer(structured, tensor([1], [1], "FP64"), tensor(["p", "q"], [2], "BYTES", "label"), path=path)
    assert uneven.status == 400
    assert "same number of rows" in uneven.json["error"]


def test_constraints_hold_for_tensors_too(typed_server: Berth) -> None:
    inputs = [
        tensor([2], [1], "INT64", "count"),
        tensor(["ab"], [1], "BYTES", "name"),
        tensor([1, 2], [1, 1, 2], "FP32", "numbers"),
        tensor(["blue"], [1], "BYTES", "colour"),
        tensor(['{"x": 4}'], [1], "BYTES", "point"),
    ]
    answer = outputs(infer(typed_server, *inputs, path="/v2/models/typed/infer"))
    value = json.loads(answer["output"][0])
    assert value["text"] == "abab"
    assert value["colour"] == "blue"
    assert value["point"] == [4.0, 0.0]
    inputs[0]["data"] = [11]
    wrong = infer(typed_server, *inputs, path="/v2/models/typed/infer")
    assert wrong.status == 400
    assert "<= 10" in wrong.json["error"]
    inputs[0]["data"] = [1]
    inputs[4]["data"] = ["{"]
    assert "input 'point'" in infer(typed_server, *inputs, path="/v2/models/typed/infer").json["error"]


@pytest.mark.parametrize("rows", [1, 40])
def test_a_number_too_large_for_its_datatype_is_told(onnx_server: Berth, rows: int) -> None:
    data = [1e39, *[0.5] * (2 * rows - 1)]
    answer = infer(onnx_server, tensor(data, [rows, 2]))
    assert answer.status == 400
    assert "expected float32" in answer.json["error"]
