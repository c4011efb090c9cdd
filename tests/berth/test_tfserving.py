"""TensorFlow Serving's REST API and KServe's V1, asked with plain `requests`."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.berth.support import serving
from tests.berth.tcp import on_tcp

MODELS: list[dict[str, Any]] = [
    {"name": "shout", "predictor": "models_faces:Shout", "version": "7"},
    {"name": "divide", "predictor": "models_faces:Divide"},
    {"name": "divide", "predictor": "models_faces:AsyncDivide", "version": "async"},
    {"name": "team/blob it", "predictor": "models_faces:Blob"},
    {"name": "reverse", "predictor": "models_faces:Reverse", "workers": 1},
    {"name": "sum", "predictor": "models_faces:Sum"},
    {"name": "tokens", "predictor": "models_faces:Tokens"},
    {"name": "colon:predict", "predictor": "models_faces:Shout"},
]


@pytest.fixture(scope="module")
def url(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tensors = [
        {"name": name, "format": "onnx", "weights": str(weights / f"{name}.onnx")}
        for name in ("double", "pair", "text", "fixed")
    ]
    iris = {"name": "iris", "format": "sklearn", "weights": str(weights / "iris.joblib")}
    path = tmp_path_factory.mktemp("tfserving") / "models.json"
    path.write_text(json.dumps([*MODELS, *tensors, iris]))
    with serving(MODELS=str(path), REQUEST_TIMEOUT_S="30") as server, on_tcp(server) as address:
        yield f"{address}/v1/models"


def predict(url: str, model: str, status: int = 200, **body: Any) -> Any:
    answer = requests.post(f"{url}/{model}:predict", data=json.dumps(body), timeout=20)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json()


def test_rows_of_a_tensor_come_back_as_rows(url: str) -> None:
    assert predict(url, "double", instances=[[1, 2], [3, 4]]) == {"predictions": [[2, 4], [6, 8]]}
    assert predict(url, "double", instances=[{"x": [1, 2]}]) == {"predictions": [[2, 4]]}


def test_columns_of_a_tensor_come_back_as_columns(url: str) -> None:
    assert predict(url, "double", inputs=[[1, 2], [3, 4]]) == {"outputs": [[2, 4], [6, 8]]}
    assert predict(url, "pair", inputs={"a": [1, 2], "b": [3, 4]}) == {"outputs": [4, 6]}
    assert predict(url, "fixed", inputs={"x": [[1, 2]]}) == {"outputs": [[2, 4]]}


def test_several_inputs_and_outputs_are_objects_by_name(url: str) -> None:
    assert predict(url, "pair", instances=[{"a": 1, "b": 2}, {"a": 3, "b": 4}]) == {"predictions": [3, 7]}
    rows = predict(url, "iris", instances=[[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])["predictions"]
    assert [row["label"] for row in rows] == [0, 2]
    assert all(len(row["probabilities"]) == 3 for row in rows)
    columns = predict(url, "iris", inputs=[[5.1, 3.5, 1.4, 0.2]])["outputs"]
    assert columns["label"] == [0]


@pytest.mark.parametrize("model", ["divide", "divide/versions/1", "divide/versions/async"])
def test_rows_and_columns_of_a_predictor(url: str, model: str) -> None:
    rows = [{"text": "A", "number": 1}, {"text": "B", "number": 2}]
    assert predict(url, model, instances=rows) == {"predictions": [{"low": "a", "high": 2}, {"low": "b", "high": 4}]}
    columns = {"text": ["A", "B"], "number": [1, 2]}
    assert predict(url, model, inputs=columns) == {"outputs": {"low": ["a", "b"], "high": [2, 4]}}


def test_the_only_required_input_needs_no_name(url: str) -> None:
    assert predict(url, "shout", instances=["a", {"text": "b", "times": 2}]) == {"predictions": ["A", "BB"]}
    assert predict(url, "shout", inputs=["a", "b"]) == {"outputs": ["A", "B"]}
    assert predict(url, "sum", instances=[[1, 2, 3], [4]]) == {"predictions": [6.0, 4.0]}


def test_a_signature_name_is_accepted(url: str) -> None:
    assert predict(url, "shout", signature_name="serving_default", instances=["a"]) == {"predictions": ["A"]}
    assert "signature_name" in predict(url, "shout", 400, signature_name=1, instances=["a"])["error"]


def test_bytes_are_b64_objects_both_ways(url: str) -> None:
    def wrapped(data: bytes) -> dict[str, str]:
        return {"b64": base64.b64encode(data).decode()}

    blob = "team/blob%20it"
    assert predict(url, blob, instances=[wrapped(b"\xff\x00a")]) == {
        "predictions": [{"only": wrapped(b"a\x00\xff"), "size": 3}]
    }
    assert predict(url, blob, instances=[{"data": wrapped(b"ab")}])["predictions"][0]["only"] == wrapped(b"ba")
    assert predict(url, blob, inputs=[wrapped(b"ab"), "text"])["outputs"]["size"] == [2, 4]
    assert predict(url, "shout", instances=[wrapped("ä".encode())]) == {"predictions": ["Ä"]}
    assert predict(url, "reverse", instances=[wrapped(b"ab")]) == {"predictions": [wrapped(b"ba")]}
    assert predict(url, "text", instances=[wrapped(b"plain"), "x"]) == {"predictions": ["plain", "x"]}
    assert "base64" in predict(url, blob, 400, instances=[{"b64": "?"}])["error"]


def test_nan_is_read_as_a_bare_token_and_written_as_null(url: str) -> None:
    answer = requests.post(f"{url}/double:predict", data='{"instances": [[NaN, Infinity]]}', timeout=20)
    assert answer.text == '{"predictions":[[null,null]]}'


def test_a_stream_is_collected_into_its_row(url: str) -> None:
    assert predict(url, "tokens", instances=["a b"]) == {"predictions": [["a ", "b "]]}
    assert predict(url, "tokens", inputs=["a b"]) == {"outputs": [["a ", "b "]]}
    assert "one row at a time" in predict(url, "tokens", 400, instances=["a", "b"])["error"]


@pytest.mark.parametrize(
    ("model", "body", "words"),
    [
        ("double", {}, ["instances", "inputs"]),
        ("double", {"instances": [[1, 2]], "inputs": [[1, 2]]}, ["instances", "inputs"]),
        ("double", {"instances": []}, ["at least one"]),
        ("double", {"instances": {"x": 1}}, ["list"]),
        ("double", {"instances": [[1, 2, 3]]}, ["[-1, 2]", "[1, 3]"]),
        ("double", {"instances": [[1, 2], [3]]}, ["equal length"]),
        ("double", {"instances": [{"y": [1, 2]}]}, ["$.x"]),
        ("pair", {"instances": [{"a": 1, "b": 2}, {"a": 1}]}, ["instances[1]", "a, b"]),
        ("pair", {"instances": [1]}, ["instances[0]", "a, b"]),
        ("pair", {"inputs": {"a": [1, 2], "b": [1]}}, ["same number of rows"]),
        ("divide", {"instances": [{"text": "a", "number": "1"}]}, ["instances[0]", "$.number"]),
        ("divide", {"instances": [{"text": "a", "number": 1, "more": 1}]}, ["more"]),
        ("divide", {"inputs": {"text": ["a"], "number": [1, 2]}}, ["equal length"]),
        ("divide", {"inputs": {"text": "a", "number": [1]}}, ["inputs.text"]),
        ("divide", {"inputs": {}}, ["equal length"]),
        ("shout", {"instances": ["refuse"]}, ["text: not this one"]),
    ],
)
def test_what_does_not_fit_is_400_and_says_why(url: str, model: str, body: Any, words: list[str]) -> None:
    error = predict(url, model, 400, **body)["error"]
    assert all(word in error for word in words), error


@pytest.mark.parametrize("body", ["", "{", "[1]", "3", "[" * 100_000, '{"instances": ["\\ud800"]}'])
def test_a_body_that_is_no_json_object_is_400(url: str, body: str) -> None:
    answer = requests.post(f"{url}/shout:predict", data=body, timeout=20)
    assert answer.status_code == 400
    assert isinstance(answer.json()["error"], str)


def test_a_failure_of_the_model_is_500_without_its_secrets(url: str) -> None:
    error = predict(url, "shout", 500, instances=["break"])["error"]
    assert "error id" in error
    assert "secret" not in error


def test_the_status_lists_the_versions(url: str) -> None:
    answer = requests.get(f"{url}/divide", timeout=20)
    assert answer.status_code == 200
    states = answer.json()["model_version_status"]
    ok = {"error_code": "OK", "error_message": ""}
    assert states == [{"version": version, "state": "AVAILABLE", "status": ok} for version in ("1", "async")]
    one = requests.get(f"{url}/divide/versions/1", timeout=20).json()
    assert [state["version"] for state in one["model_version_status"]] == ["1"]


def test_kserve_reads_readiness_and_the_list_of_names(url: str) -> None:
    answer = requests.get(f"{url}/team/blob%20it", timeout=20).json()
    assert (answer["name"], answer["ready"]) == ("team/blob it", True)
    names = requests.get(url, timeout=20).json()["models"]
    assert names[:4] == ["shout", "divide", "team/blob it", "reverse"]


def test_kserve_finds_the_server_alive_where_people_find_a_page(url: str) -> None:
    root = url.removesuffix("v1/models")
    assert requests.get(root, timeout=20).json() == {"status": "alive"}
    page = requests.get(root, headers={"Accept": "text/html,*/*"}, timeout=20)
    assert page.headers["Content-Type"].startswith("text/html")


def test_the_metadata_describes_the_signature(url: str) -> None:
    answer = requests.get(f"{url}/double/metadata", timeout=20).json()
    assert answer["model_spec"] == {"name": "double", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    x = signature["inputs"]["x"]
    assert x["dtype"] == "DT_FLOAT"
    assert x["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False}
    text = requests.get(f"{url}/divide/versions/1/metadata", timeout=20).json()
    inputs = text["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert {name: item["dtype"] for name, item in inputs.items()} == {"text": "DT_STRING", "number": "DT_INT64"}


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "double:classify", 501, ":classify"),
        ("POST", "double:regress", 501, ":regress"),
        ("POST", "double:explain", 501, ":explain"),
        ("POST", "double:sing", 404, "'sing'"),
        ("GET", "double:predict", 405, "POST"),
        ("POST", "double", 405, "GET"),
        ("POST", "nothing:predict", 404, "'nothing'"),
        ("GET", "nothing", 404, "'nothing'"),
        ("GET", "nothing/metadata", 404, "'nothing'"),
        ("POST", "double/versions/9:predict", 404, "'9'"),
        ("GET", "double/labels/stable", 404, "no route"),
    ],
)
def test_what_is_not_there_says_so(url: str, method: str, path: str, status: int, words: str) -> None:
    answer = requests.request(method, f"{url}/{path}", data=b"{}", timeout=20)
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_a_name_with_a_colon_is_a_name(url: str) -> None:
    assert requests.get(f"{url}/colon:predict", timeout=20).json()["name"] == "colon:predict"
    assert predict(url, "colon%3Apredict", instances=["a"]) == {"predictions": ["A"]}


def test_a_full_queue_and_a_deadline_have_their_statuses() -> None:
    with (
        serving(PREDICTOR="models_faces:Shout", MODEL_NAME="shout", MAX_QUEUE="1") as server,
        on_tcp(server) as address,
    ):
        url = f"{address}/v1/models"
        slow = threading.Thread(target=predict, args=(url, "shout"), kwargs={"instances": ["slow"]})
        slow.start()
        server.wait_for_pending("shout", 1)
        full = requests.post(f"{url}/shout:predict", '{"instances": ["a"]}', timeout=20)
        slow.join()
        assert full.status_code == 503
        assert int(full.headers["Retry-After"]) >= 1
        assert "queue is full" in full.json()["error"]
        late = requests.post(
            f"{url}/shout:predict", '{"instances": ["slow"]}', headers={"X-Request-Timeout": "0.2"}, timeout=20
        )
        assert late.status_code == 504
        assert "deadline" in late.json()["error"]
