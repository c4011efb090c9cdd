"""TorchServe's REST API, asked with plain `requests`: raw bodies, forms, and what its clients send."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import requests

from tests.berth.support import Berth, serving
from tests.berth.tcp import on_tcp

MODELS: list[dict[str, Any]] = [
    {"name": "shout", "predictor": "models_faces:Shout", "version": "1.0"},
    {"name": "shout", "predictor": "models_faces:Tokens", "version": "2.0"},
    {"name": "divide", "predictor": "models_faces:AsyncDivide"},
    {"name": "blob", "predictor": "models_faces:Blob", "workers": 1},
    {"name": "team/reverse it", "predictor": "models_faces:Reverse"},
    {"name": "picture", "predictor": "models_faces:Picture"},
    {"name": "sum", "predictor": "models_faces:Sum"},
    {"name": "structs", "predictor": "models_faces:Structs", "workers": 1},
    {"name": "tokens", "predictor": "models_faces:Tokens"},
]


@pytest.fixture(scope="module")
def berth(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Berth]:
    double = {"name": "double", "format": "onnx", "weights": str(weights / "double.onnx")}
    path = tmp_path_factory.mktemp("torchserve") / "models.json"
    path.write_text(json.dumps([*MODELS, double]))
    with serving(MODELS=str(path), MAX_BODY_BYTES="100000") as server:
        yield server


@pytest.fixture(scope="module")
def url(berth: Berth) -> Iterator[str]:
    with on_tcp(berth) as address:
        yield address


def post(url: str, model: str, **arguments: Any) -> requests.Response:
    return requests.post(f"{url}/predictions/{model}", timeout=20, **arguments)


def png() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.zeros((3, 4, 3), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_raw_body_is_the_only_input(url: str) -> None:
    assert post(url, "picture", data=png()).json()["shape"] == [3, 4, 3]
    assert post(url, "team/reverse%20it", data=b"\x00ab").content == b"ba\x00"
    assert post(url, "blob", data=b"ab").json() == ["YmE=", 2]
    assert post(url, "shout/1.0", data="ä").text == "Ä"


@pytest.mark.parametrize("part", ["data", "body", "image"])
def test_a_part_of_a_form_is_an_input(url: str, part: str) -> None:
    answer = post(url, "picture", files={part: ("a.png", png(), "image/png")})
    assert answer.json() == {"shape": [3, 4, 3], "type": "image/png"}


def test_a_form_names_its_inputs(url: str) -> None:
    assert post(url, "divide", files={"text": (None, "A"), "number": (None, "4")}).json() == {"low": "a", "high": 8}
    assert post(url, "divide", data={"text": "A", "number": "4"}).json() == {"low": "a", "high": 8}
    assert post(url, "shout/1.0", data={"data": "a b"}).text == "A B"
    assert post(url, "shout/1.0", files={"body": ("a.txt", b"ab"), "times": (None, "2")}).text == "ABAB"
    assert post(url, "blob", files={"data": ("a", b"ab")}).json() == ["YmE=", 2]
    mixed = post(url, "team/reverse%20it", files={"file": ("a", b"ab", "x/y"), "prefix": (None, ">")})
    assert mixed.content == b">ba"
    assert mixed.headers["Content-Type"] == "application/x-reversed"


def test_json_has_inputs_by_name_or_in_order(url: str) -> None:
    expected = {"low": "a", "high": 8}
    assert post(url, "divide", json={"text": "A", "number": 4}).json() == expected
    assert post(url, "divide", json=["A", 4]).json() == expected
    assert post(url, "divide", data=json.dumps({"text": "A", "number": 4})).json() == expected
    assert post(url, "sum", json=[1, 2, 3]).json() == 6.0
    assert post(url, "sum", json={"data": [1, 2, 3]}).json() == 6.0
    assert post(url, "sum", json={"x": [1, 2], "scale": 2}).json() == 6.0
    assert post(url, "double", json=[[1, 2]]).json() == {"y": [[2.0, 4.0]]}
    assert post(url, "double", json={"body": [[1, 2]]}).json() == {"y": [[2.0, 4.0]]}
    assert post(url, "shout/1.0", json={"text": "a", "times": 2}).text == "AA"
    assert post(url, "shout/1.0", json="a").text == "A"
    assert post(url, "picture", json={"image": {"b64": "AAAA"}}).status_code == 400


def test_a_text_that_only_looks_like_json_is_a_text(url: str) -> None:
    assert post(url, "shout/1.0", data='{"a": 1}').text == '{"A": 1}'
    assert post(url, "shout/1.0", data="{").text == "{"


def test_texts_are_answered_as_text_and_as_json_where_asked_for(url: str) -> None:
    plain = post(url, "shout/1.0", data="a")
    assert plain.headers["Content-Type"] == "text/plain; charset=utf-8"
    quoted = post(url, "shout/1.0", data="a", headers={"Accept": "application/json"})
    assert quoted.headers["Content-Type"] == "application/json"
    assert quoted.text == '"A"'


def test_a_content_type_from_a_caller_cannot_add_headers(url: str, tmp_path: Path) -> None:
    (tmp_path / "echoing.py").write_text(
        "import berth\nclass Echo:\n    def predict(self, file: berth.File) -> berth.File:\n        return file\n"
    )
    with serving(cwd=tmp_path, PREDICTOR="echoing:Echo", MODEL_NAME="echo") as server:
        sent = {"file": {"b64": "YQ==", "content_type": "text/plain\r\nX-Evil: yes"}}
        answer = server.post("/predictions/echo", sent, {"Content-Type": "application/json"})
        assert answer.body == b"a"
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert "X-Evil" not in answer.headers


def test_a_predictor_that_yields_answers_in_chunks(url: str) -> None:
    with post(url, "tokens", data="a b c", stream=True) as answer:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert b"".join(answer.iter_content(None)) == b"a b c "
    lines = post(url, "structs", data="a b")
    assert lines.headers["Content-Type"] == "application/jsonl"
    assert [json.loads(line) for line in lines.iter_lines()] == [{"word": "a"}, {"word": "b"}]
    assert post(url, "tokens", data="a b", headers={"Accept": "application/json"}).json() == ["a ", "b "]
    assert post(url, "tokens", data="a", headers={"Accept": "text/event-stream"}).text == 'data: "a "\n\n'
    assert post(url, "tokens", data="a b", headers={"Accept": "application/x-ndjson"}).text == '"a "\n"b "\n'
    assert post(url, "tokens", data="").text == ""


def test_a_stream_that_breaks_off_says_so_on_its_last_line(url: str) -> None:
    answer = post(url, "tokens", data="a break b")
    first, last = answer.text.strip().split("\n")
    assert first == "a "
    error = json.loads(last)
    assert (error["code"], error["type"]) == (500, "InternalServerException")
    assert "secret" not in error["message"]
    slow = post(url, "structs", data="a wait", headers={"X-Request-Timeout": "2"})
    late = json.loads(slow.text.strip().split("\n")[-1])
    assert late["code"] == 504


def test_a_version_may_be_named(url: str) -> None:
    assert post(url, "shout", data="a b").text == "a b "
    assert post(url, "shout/2.0", data="a b").text == "a b "
    assert post(url, "shout/1.0", data="a b").text == "A B"
    assert requests.put(f"{url}/predictions/shout/1.0", data="a", timeout=20).text == "A"


def shape(answer: requests.Response, status: int, kind: str) -> str:
    """The message of an error, whose other fields are checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    error = answer.json()
    assert error.keys() == {"code", "type", "message"}
    assert (error["code"], error["type"]) == (status, kind)
    message: str = error["message"]
    return message


def test_errors_have_torchserves_shape(url: str) -> None:
    assert "nothing" in shape(post(url, "nothing"), 404, "ModelNotFoundException")
    assert "9.9" in shape(post(url, "shout/9.9"), 404, "ModelVersionNotFoundException")
    assert "nothing" in shape(requests.get(f"{url}/models/nothing", timeout=20), 404, "ModelNotFoundException")
    shape(requests.get(f"{url}/models/shout/9.9", timeout=20), 404, "ModelVersionNotFoundException")
    shape(requests.get(f"{url}/predictions/shout", timeout=20), 405, "MethodNotAllowedException")
    shape(requests.post(f"{url}/explanations/shout", timeout=20), 501, "NotImplementedException")
    assert "`number`" in shape(post(url, "divide", json={"text": "a"}), 400, "BadRequestException")
    assert "text, number" in shape(post(url, "divide", json=["a"]), 400, "BadRequestException")
    assert "text, number" in shape(post(url, "divide", json=3), 400, "BadRequestException")
    assert "JSON" in shape(post(url, "divide", data="{"), 400, "BadRequestException")
    shape(post(url, "picture", data=b"no picture"), 400, "BadRequestException")
    shape(post(url, "shout/1.0", data=b"\xff"), 400, "BadRequestException")
    shape(post(url, "picture", data=b"", headers={"Content-Type": "multipart/form-data"}), 400, "BadRequestException")
    assert "not this one" in shape(post(url, "shout/1.0", data="refuse"), 400, "BadRequestException")
    assert "secret" not in shape(post(url, "shout/1.0", data="break"), 500, "InternalServerException")


def test_a_body_that_is_too_large_is_refused_in_torchserves_shape(berth: Berth) -> None:
    answer = berth.post("/predictions/picture", b"x" * 100_001)
    assert answer.status == 413
    assert answer.json["type"] == "RequestEntityTooLargeException"


def test_a_full_queue_and_a_deadline_have_torchserves_shape() -> None:
    with serving(PREDICTOR="models_faces:Shout", MODEL_NAME="shout", MAX_QUEUE="1") as server, on_tcp(server) as url:
        slow = threading.Thread(target=post, args=(url, "shout"), kwargs={"data": "slow"})
        slow.start()
        server.wait_for_pending("shout", 1)
        full = post(url, "shout", data="a")
        slow.join()
        assert "queue is full" in shape(full, 503, "ServiceUnavailableException")
        assert int(full.headers["Retry-After"]) >= 1
        shape(post(url, "shout", data="slow", headers={"X-Request-Timeout": "0.2"}), 504, "InferenceTimeoutException")


def test_ping_tells_whether_requests_are_wanted(url: str, tmp_path: Path) -> None:
    answer = requests.get(f"{url}/ping", timeout=20)
    assert (answer.status_code, answer.json()) == (200, {"status": "Healthy"})
    path = tmp_path / "models.json"
    path.write_text(json.dumps([{"name": "m", "predictor": "models_faces:Shout", "at_start": False}]))
    with serving(MODELS=str(path)) as server:
        empty = server.get("/ping")
        assert empty.status == 503
        assert empty.json["status"] == "Unhealthy"


def test_the_models_are_listed_and_described(url: str) -> None:
    models = requests.get(f"{url}/models", timeout=20).json()["models"]
    assert {"modelName": "shout", "modelUrl": "models_faces:Tokens"} in models
    assert len([one for one in models if one["modelName"] == "shout"]) == 1
    (described,) = requests.get(f"{url}/models/shout", timeout=20).json()
    assert (described["modelName"], described["modelVersion"], described["minWorkers"]) == ("shout", "2.0", 1)
    assert [worker["status"] for worker in described["workers"]] == ["READY"]
    every = requests.get(f"{url}/models/shout/all", timeout=20).json()
    assert [one["modelVersion"] for one in every] == ["1.0", "2.0"]
    (old,) = requests.get(f"{url}/models/shout/1.0", timeout=20).json()
    assert old["modelVersion"] == "1.0"
    named = requests.get(f"{url}/models/team/reverse%20it", timeout=20).json()
    assert named[0]["modelName"] == "team/reverse it"


def test_the_native_paths_below_a_model_are_as_before(url: str) -> None:
    assert requests.post(f"{url}/models/sum/predict", json={"x": [1]}, timeout=20).json() == 1.0
    assert requests.get(f"{url}/models/sum/openapi.json", timeout=20).json()["openapi"] == "3.1.0"
    assert requests.get(f"{url}/models/sum/", timeout=20).headers["Content-Type"].startswith("text/html")
    unknown = requests.post(f"{url}/models/nothing/predict", json={}, timeout=20)
    assert "'nothing'" in unknown.json()["error"]
