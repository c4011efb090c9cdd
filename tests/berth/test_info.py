"""What answers say of themselves to those who ask, and to nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.berth.support import Answer, Berth, predictor, read_answers, run, serving, use_up_log

DIGEST = "sha256:" + "0123456789abcdef" * 4
HEADERS = ("Model-Name", "Model-Version", "Image-Digest", "Preference-Applied")
ASK = {"Prefer": "model-info"}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Berth]:
    models = [
        {"name": "double", "version": "3", "format": "onnx", "weights": str(weights / "double.onnx")},
        {"name": "od d/é", "version": "a b", "predictor": "models:RaisesInPredict"},
        {"name": "tokens", "predictor": "models_streams:Tokens"},
    ]
    path = tmp_path_factory.mktemp("models") / "models.json"
    path.write_text(json.dumps(models))
    with serving(MODELS=str(path), IMAGE_DIGEST=DIGEST) as server:
        yield server


def said(answer: Answer) -> list[str | None]:
    return [answer.headers.get(name) for name in HEADERS]


def test_whoever_asks_is_told(several: Berth) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    answer = several.post("/v2/models/double/infer", body, ASK)
    assert said(answer) == ["double", "3", DIGEST, "model-info"]
    stream = several.post("/models/tokens/predict", {"text": "a", "count": 2}, ASK)
    assert said(stream) == ["tokens", "1", DIGEST, "model-info"]
    assert stream.body.count(b"data:") == 2
    odd = "/models/od%20d/%C3%A9/predict"
    for value, status in ((7, 200), (1, 500), (3, 422), ("a", 422)):
        answer = several.post(odd, {"x": value}, ASK)
        assert answer.status == status
        assert said(answer) == ["od%20d/%C3%A9", "a%20b", DIGEST, "model-info"]
    assert said(several.ask("GET", "/livez", None, ASK)) == [None, None, DIGEST, "model-info"]


def test_nobody_else_is(several: Berth) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    for headers in ({}, {"Prefer": "respond-async"}, {"Prefer": "model-information, wait=model-info"}):
        assert said(several.post("/v2/models/double/infer", body, headers)) == [None] * 4
    assert said(several.get("/livez")) == [None] * 4


@pytest.mark.parametrize("prefer", ["respond-async, model-info", "Model-Info;q=1, wait=10"])
def test_the_preference_may_be_one_of_several(several: Berth, prefer: str) -> None:
    assert said(several.post("/models/tokens/predict", {"text": "a", "count": 1}, {"Prefer": prefer}))[0] == "tokens"


def test_everybody_is_told_where_the_server_says_so() -> None:
    with serving(**predictor("RaisesInPredict", ANSWER_INFO="on", MODEL_NAME="m")) as server:
        assert said(server.predict(x=7)) == ["m", "1", None, None]
        assert said(server.predict(x=1)) == ["m", "1", None, None]


def test_answers_of_the_express_lane_are_asked_for_the_general_way(weights: Path) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()

    def request(header: str) -> bytes:
        head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "double.onnx"), "MODEL_NAME": "m"}
    with serving(**settings) as server, server.connect() as connection:
        use_up_log(connection, request(""))
        for _ in range(100):
            connection.sendall(request(""))
            assert said(read_answers(connection, 1)[0]) == [None] * 4
        for _ in range(3):
            connection.sendall(request("Prefer: model-info\r\n"))
            assert said(read_answers(connection, 1)[0]) == ["m", "1", None, "model-info"]


@pytest.mark.parametrize("digest", ["sha256:12", "latest", "sha256:" + "G" * 64])
def test_a_digest_that_is_none_stops_the_start(digest: str) -> None:
    done = run("serve", **predictor("Slow", IMAGE_DIGEST=digest))
    assert done.returncode == 2
    assert "BERTH_IMAGE_DIGEST" in done.stderr
