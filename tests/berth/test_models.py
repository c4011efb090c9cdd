"""Several models in one server, versions, loading and unloading, and models in worker processes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.berth.support import DEADLINE_S, Berth, run, serving


def models_file(folder: Path, *models: dict[str, Any]) -> str:
    path = folder / "models.json"
    path.write_text(json.dumps(models))
    return str(path)


@pytest.fixture(scope="module")
def several(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Berth]:
    folder = tmp_path_factory.mktemp("models")
    path = models_file(
        folder,
        {"name": "echo", "predictor": "models:Echo"},
        {"name": "double", "version": "1", "format": "onnx", "weights": str(weights / "double.onnx")},
        {"name": "double", "version": "2", "format": "onnx", "weights": str(weights / "wide.onnx"), "max_queue": 7},
        {"name": "spare", "predictor": "models:Slow", "at_start": False},
    )
    with serving(MODELS=path, MODEL_CONTROL="on") as server:
        yield server


def ask(server: Berth, path: str) -> Any:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    return server.post(path, {"inputs": [tensor]})


def test_each_model_and_version_answers_by_its_name(several: Berth) -> None:
    assert several.get("/v2/models").json == {"models": ["echo", "double"]}
    latest = ask(several, "/v2/models/double/infer").json
    assert (latest["model_name"], latest["model_version"]) == ("double", "2")
    assert ask(several, "/v2/models/double/versions/1/infer").json["model_version"] == "1"
    assert ask(several, "/v2/models/double/versions/3/infer").status == 404
    assert several.get("/models/double/versions/1/openapi.json").json["info"]["version"] == "1"
    assert several.post("/models/double/predict", {"x": [[1, 2]]}).json == {"y": [[2.0, 4.0]]}
    assert several.get("/openapi.json").json["info"]["title"] == "echo"
    assert "no model 'nothing'" in several.get("/v2/models/nothing").json["error"]


def test_each_model_has_its_own_counts(several: Berth) -> None:
    ask(several, "/v2/models/double/versions/1/infer")
    text = several.get("/metrics").body.decode()
    assert text.count("# TYPE berth_batch_rows histogram") == 1
    for version in "12":
        assert f'nv_inference_count{{model="double",version="{version}"}}' in text
    stats = several.get("/v2/models/double/versions/1/stats").json["model_stats"][0]
    assert stats["inference_count"] >= 1
    assert stats["inference_stats"]["success"]["ns"] > 0


def test_the_configuration_is_told(several: Berth) -> None:
    config = several.get("/v2/models/double/versions/1/config").json
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2]}]
    assert config["backend"] == "onnx"


def test_models_are_loaded_and_unloaded(several: Berth) -> None:
    def index() -> dict[tuple[str, str], str]:
        found = several.post("/v2/repository/index", {}).json
        return {(item["name"], item["version"]): item["state"] for item in found}

    assert index() == {
        ("echo", "1"): "READY",
        ("double", "1"): "READY",
        ("double", "2"): "READY",
        ("spare", "1"): "UNAVAILABLE",
    }
    ready = several.post("/v2/repository/index", {"ready": True}).json
    assert {item["name"] for item in ready} == {"echo", "double"}
    assert several.get("/v2/models/spare").status == 404
    assert several.post("/v2/repository/models/spare/load", {}).json == {}
    assert several.get("/v2/models/spare/ready").status == 200
    assert several.post("/v2/repository/models/spare/unload", {}).status == 200
    assert several.get("/v2/models/spare").status == 404
    assert several.post("/v2/repository/models/spare/unload", {}).status == 404
    assert several.post("/v2/repository/models/other/load", {}).status == 404


def test_a_server_without_models_is_not_ready() -> None:
    with serving(PREDICTOR="models:Echo", MODEL_CONTROL="on") as server:
        assert server.post("/v2/repository/models/model/unload", {}).status == 200
        ready = server.get("/v2/health/ready")
        assert ready.status == 503
        assert ready.json == {"ready": False, "error": "no model is loaded"}
        assert server.get("/v2/health/live").status == 200
        assert server.predict(x=1).status == 404


def test_control_over_the_wire_is_off_unless_allowed() -> None:
    with serving(PREDICTOR="models:Echo") as server:
        for action in ("load", "unload"):
            answer = server.post(f"/v2/repository/models/model/{action}", {})
            assert answer.status == 403
            assert "BERTH_MODEL_CONTROL" in answer.json["error"]


def test_a_reload_serves_the_old_until_the_new_is_there(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text("old")
    os.environ["VERSION_FILE"] = str(version)
    try:
        with serving(PREDICTOR="models_workers:Versioned", MODEL_CONTROL="on") as server:
            stop = threading.Event()
            failures: list[int] = []

            def keep_asking() -> None:
                while not stop.is_set():
                    if (status := server.predict(x=1).status) != 200:
                        failures.append(status)

            thread = threading.Thread(target=keep_asking)
            thread.start()
            version.write_text("new")
            assert server.post("/v2/repository/models/model/load", {}).status == 200
            assert server.predict(x=1).json == "new 1"
            version.unlink()
            assert server.post("/v2/repository/models/model/load", {}).status == 500
            assert server.predict(x=1).json == "new 1"
            stop.set()
            thread.join(DEADLINE_S)
            assert not failures
    finally:
        del os.environ["VERSION_FILE"]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("[]", "names no model"),
        ("{", "expected a JSON array"),
        ('[{"predictor": "models:Echo", "max_que": 1}]', "[0].max_que: no such key; did you mean max_queue?"),
        ('[{"predictor": "models:Echo", "max_queue": "many"}]', "[0].max_queue: expected a whole number"),
        ('[{"predictor": "models:Echo"}, {"predictor": "models:Echo"}]', "same name and version"),
        ('[{"name": "a"}]', "[0]: BERTH_PREDICTOR: no model to serve"),
        ('[{"predictor": "models:Echo", "batch_sizes": [4, 2]}]', "[0].batch_sizes: expected whole numbers"),
    ],
)
def test_a_bad_file_of_models_stops_the_start(tmp_path: Path, models: str, words: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(models)
    done = run("serve", MODELS=str(path))
    assert done.returncode == 2
    assert words in done.stderr


def test_the_models_may_stand_in_the_setting_itself() -> None:
    models = [{"name": "a", "predictor": "models:Echo"}, {"name": "b", "version": "2", "predictor": "models:Slow"}]
    with serving(MODELS=json.dumps(models)) as server:
        assert server.get("/v2/models").json == {"models": ["a", "b"]}
    done = run("serve", MODELS='[{"name": "a"}]')
    assert done.returncode == 2
    assert "BERTH_MODELS: [0]: BERTH_PREDICTOR: no model to serve" in done.stderr


# Worker processes.


@pytest.fixture(scope="module")
def fragile() -> Iterator[Berth]:
    with serving(PREDICTOR="models_workers:Fragile", WORKERS="2") as server:
        yield server


def test_workers_answer(fragile: Berth) -> None:
    answers = [fragile.predict(value=number) for number in range(5)]
    assert [answer.json["value"] for answer in answers] == list(range(5))
    assert fragile.process.pid not in {answer.json["pid"] for answer in answers}
    assert fragile.get("/v2/health/ready").status == 200


def test_an_input_that_ends_its_worker_fails_alone(fragile: Berth) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: fragile.predict(value=number), [*range(10, 26)]))
    assert {
        number: answer.status for number, answer in zip(range(10, 26), answers, strict=True) if answer.status != 200
    } == {13: 500}
    assert [answer.json["value"] for answer in answers if answer.status == 200] == [*range(10, 13), *range(14, 26)]
    assert fragile.get("/v2/health/live").status == 200


def test_killed_workers_lose_no_request(fragile: Berth) -> None:
    stop = threading.Event()
    wrong: list[Any] = []
    counts = [0] * 4

    def keep_asking(lane: int) -> None:
        while not stop.is_set():
            value = 100 + lane
            answer = fragile.predict(value=value)
            counts[lane] += 1
            if answer.status != 200 or answer.json["value"] != value:
                wrong.append((answer.status, answer.body))

    threads = [threading.Thread(target=keep_asking, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        os.kill(fragile.predict(value=1).json["pid"], signal.SIGKILL)
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert not wrong
    assert sum(counts) > 20


def test_health_answers_while_all_workers_compute() -> None:
    with serving(PREDICTOR="models_workers:Spin", WORKERS="2") as server, ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(server.predict, seconds=0.7) for _ in range(4)]
        waits = []
        while not all(future.done() for future in busy):
            started = time.monotonic()
            assert server.get("/v2/health/live").status == 200
            waits.append(time.monotonic() - started)
        assert sorted(waits)[len(waits) // 2] < 0.1
        assert all(future.result().status == 200 for future in busy)


def test_a_backend_runs_in_workers_too(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx"), WORKERS="1", MODEL_NAME="double") as server:
        assert ask(server, "/v2/models/double/infer").json["outputs"][0]["data"] == [2.0, 4.0]


def test_a_predictor_that_yields_runs_in_workers_too() -> None:
    with serving(PREDICTOR="models_streams:Tokens", WORKERS="1") as server:
        answer = server.post("/predict", {"text": "a", "count": 2}, {"Accept": "application/jsonl"})
        assert [json.loads(line)["index"] for line in answer.body.splitlines()] == [0, 1]


def test_a_load_that_fails_in_a_worker_stops_the_start() -> None:
    done = run("serve", PREDICTOR="models:RaisesInLoad", WORKERS="2")
    assert done.returncode == 1
    assert "RaisesInLoad" in done.stderr or "load" in done.stderr
