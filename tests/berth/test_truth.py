"""What nobody waits for is not run, what is remembered belongs to one loaded model, and health tells the truth."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.berth.support import DEADLINE_S, Answer, Berth, serving
from tests.support.processes import children


@pytest.fixture(scope="module", params=["0", "1"], ids=["thread", "worker"])
def leaf(request: pytest.FixtureRequest) -> Iterator[Berth]:
    with serving(PREDICTOR="models_chain:Leaf", WORKERS=request.param) as server:
        yield server


def infer(server: Berth, x: float, note: Path, **parameters: Any) -> Answer:
    inputs = [
        {"name": "x", "shape": [1], "datatype": "FP64", "data": [x]},
        {"name": "note", "shape": [1], "datatype": "BYTES", "data": [str(note)]},
    ]
    return server.post("/v2/models/model/infer", {"inputs": inputs, "parameters": parameters})


def test_what_has_expired_is_not_run(leaf: Berth, tmp_path: Path) -> None:
    note = tmp_path / "ran"
    with ThreadPoolExecutor(4) as pool:
        busy = pool.submit(leaf.predict, x=1, seconds=1.2)
        time.sleep(0.2)
        header = pool.submit(leaf.post, "/predict", {"x": 2, "note": str(note)}, {"X-Request-Timeout": "0.2"})
        parameter = pool.submit(infer, leaf, 3, note, timeout=200_000)
        assert header.result().status in (503, 504)
        assert parameter.result().status in (503, 504)
        assert not busy.done()
        assert busy.result().status == 200
    assert leaf.predict(x=4, note=str(note)).status == 200
    assert note.read_text().split() == ["4"]


def test_what_a_caller_has_given_up_is_not_run(leaf: Berth, tmp_path: Path) -> None:
    note = tmp_path / "ran"
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(leaf.predict, x=1, seconds=1.0)
        time.sleep(0.2)
        body = json.dumps({"x": 2, "note": str(note)}).encode()
        with leaf.connect() as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            time.sleep(0.2)
        assert busy.result().status == 200
    assert leaf.predict(x=3, note=str(note)).status == 200
    assert note.read_text().split() == ["3"]


# The cache.


def double(server: Berth, version: str) -> Answer:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    return server.post(f"/v2/models/m/versions/{version}/infer", {"inputs": [tensor]})


def test_versions_share_no_answers(tmp_path: Path, weights: Path) -> None:
    models = [
        {"name": "m", "version": "1", "format": "onnx", "weights": str(weights / "double.onnx")},
        {"name": "m", "version": "2", "format": "onnx", "weights": str(weights / "counted.onnx")},
    ]
    with serving(MODELS=json.dumps(models), CACHE_BYTES="100000") as server:
        for _ in range(2):
            assert double(server, "1").json["outputs"][0]["data"] == [2.0, 4.0]
            assert double(server, "2").json["outputs"][0]["data"] == [2.0, 3.0]
        assert double(server, "2").headers["Cache-Status"].startswith("berth; hit")


def test_a_model_that_is_loaded_anew_begins_with_nothing_remembered(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes((weights / "double.onnx").read_bytes())
    with serving(FORMAT="onnx", WEIGHTS=str(path), MODEL_NAME="m", CACHE_BYTES="100000", MODEL_CONTROL="on") as server:
        assert double(server, "1").json["outputs"][0]["data"] == [2.0, 4.0]
        assert double(server, "1").headers["Cache-Status"].startswith("berth; hit")
        path.write_bytes((weights / "counted.onnx").read_bytes())  # other weights under the same name and version
        assert server.post("/v2/repository/models/m/load", {}).status == 200
        answer = double(server, "1")
        assert answer.headers["Cache-Status"] == "berth; fwd=miss; stored"
        assert answer.json["outputs"][0]["data"] == [2.0, 3.0]


# Health.


def wait_for(server: Berth, path: str, status: int) -> Answer:
    deadline = time.monotonic() + DEADLINE_S
    while (answer := server.get(path)).status != status:
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)
    return answer


def test_a_server_that_can_start_no_worker_any_more_is_neither_alive_nor_ready() -> None:
    with serving(PREDICTOR="models_chain:Leaf", WORKERS="1") as server:
        assert server.get("/livez").status == 200
        (template,) = children(server.process.pid)
        os.kill(template, signal.SIGKILL)
        assert "forks the workers" in wait_for(server, "/livez", 503).json["error"]
        assert server.get("/readyz").status == 503
        assert server.get("/v2/models/model/ready").status == 503
        assert server.predict(x=1).status == 500


def test_a_server_whose_only_worker_starts_again_is_alive_and_says_that_it_is_not_ready(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.write_text("open")
    os.environ["VERSION_FILE"] = str(gate)
    try:
        with serving(PREDICTOR="models_workers:Versioned", WORKERS="1") as server:
            (template,) = children(server.process.pid)
            (worker,) = children(template)
            gate.unlink()  # so that a new worker cannot load
            os.kill(worker, signal.SIGKILL)
            assert "no worker process" in wait_for(server, "/readyz", 503).json["error"]
            assert server.get("/livez").status == 200
            gate.write_text("open again")
            wait_for(server, "/readyz", 200)
            assert server.predict(x=1).json == "open again 1"
    finally:
        del os.environ["VERSION_FILE"]
