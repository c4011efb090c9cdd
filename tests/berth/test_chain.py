"""Models that call other models of the same server: from threads, event loops and worker processes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.berth.support import Berth, run, serving

WHERE = pytest.mark.parametrize("workers", [0, 2], ids=["thread", "workers"])


def model(name: str, **settings: Any) -> dict[str, Any]:
    """An entry that serves a class of models_chain.py."""
    return {"name": name.lower(), "predictor": f"models_chain:{name}", **settings}


@contextmanager
def serving_models(folder: Path, *models: dict[str, Any], **settings: str) -> Iterator[Berth]:
    path = folder / "models.json"
    path.write_text(json.dumps(models))
    with serving(MODELS=str(path), **settings) as server:
        yield server


@contextmanager
def pipeline(folder: Path, weights: Path, workers: int, leaf_workers: int = 0, **leaf: Any) -> Iterator[Berth]:
    double = {"name": "double", "format": "onnx", "weights": str(weights / "double.onnx"), "workers": leaf_workers}
    models = [
        model("Pipeline", workers=workers),
        double,
        model("Leaf", workers=leaf_workers, **leaf),
        model("Inverse", workers=leaf_workers),
    ]
    with serving_models(folder, *models, MODEL_CONTROL="on") as server:
        yield server


@WHERE
@pytest.mark.parametrize("leaf_workers", [0, 1], ids=["leaf-thread", "leaf-worker"])
def test_a_predictor_calls_others_wherever_they_run(
    tmp_path: Path, weights: Path, workers: int, leaf_workers: int
) -> None:
    with pipeline(tmp_path, weights, workers, leaf_workers) as server:
        for size in (2, 200_000):  # the larger one crosses in shared memory
            answer = server.predict(x=1, size=size).json
            assert answer["sum"] == -4.0 * size
            assert answer["kept"] == 2.0  # what the other did to its input in place is not seen here
            caller, called = answer["pids"]
            assert (caller == server.process.pid) == (not workers)
            assert (called == server.process.pid) == (not leaf_workers)


@WHERE
def test_many_at_once_do_not_lock_each_other(tmp_path: Path, weights: Path, workers: int) -> None:
    with pipeline(tmp_path, weights, workers, 1) as server, ThreadPoolExecutor(32) as pool:
        sums = [answer.json["sum"] for answer in pool.map(lambda x: server.predict(x=x), range(100, 300))]
        assert sums == [-4.0 * (x + 1) for x in range(100, 300)]
        metrics = server.get("/metrics").body.decode()
        assert 'berth_requests_total{model="leaf",version="1",route="chain",status="200"} 200' in metrics


@pytest.mark.parametrize("workers", [0, 1], ids=["loop", "worker"])
def test_coroutines_call_side_by_side(tmp_path: Path, workers: int) -> None:
    with serving_models(tmp_path, model("PipelineAsync", workers=workers), model("Leaf")) as server:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda x: server.predict(x=x), range(100, 120)))
        assert [answer.json["x"] for answer in answers] == [[x + 1, x + 2, x + 3] for x in range(100, 120)]


@WHERE
def test_a_predictor_that_yields_calls_others_and_hears_all_items_of_one(tmp_path: Path, workers: int) -> None:
    tokens = {"name": "tokens", "predictor": "models_streams:Tokens", "workers": workers}
    models = (model("Streaming", workers=workers), model("Leaf"), tokens)
    with serving_models(tmp_path, *models) as server:
        answer = server.post("/predict", {"count": 5}, {"Accept": "application/jsonl"})
        assert [json.loads(line) for line in answer.body.splitlines()] == [1, 2, 3, 4, 5, [0, 1, 2, 3, 4]]
        with server.connect() as connection:  # a caller that reads nothing and leaves
            body = b'{"count": 100000}'
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            assert connection.recv(1)
        assert server.post("/predict", {"count": 2}, {"Accept": "application/jsonl"}).status == 200


@WHERE
def test_a_deadline_reaches_through(tmp_path: Path, weights: Path, workers: int) -> None:
    with pipeline(tmp_path, weights, workers) as server, ThreadPoolExecutor(1) as pool:
        note = str(tmp_path / "ran")
        busy = pool.submit(server.post, "/models/leaf/predict", {"x": 1, "seconds": 1.5})
        time.sleep(0.3)
        started = time.monotonic()
        late = server.post("/predict", {"x": 2, "note": note}, {"X-Request-Timeout": "0.3"})
        assert late.status == 504
        assert time.monotonic() - started < 1.1
        assert busy.result().status == 200
        assert server.predict(x=3, note=note).status == 200
        assert Path(note).read_text().split() == ["3"]  # what was asked for the late one was never run


@WHERE
def test_failures_say_whose_they_are(tmp_path: Path, weights: Path, workers: int) -> None:
    with pipeline(tmp_path, weights, workers, max_queue=1) as server:
        refused = server.predict(x=-1)
        assert (refused.status, refused.json) == (422, {"error": "model 'leaf': x: expected 0 or more"})
        failed = server.predict(x=13)
        assert failed.status == 500
        assert "thirteen" not in failed.json["error"]
        inner = server.wait_for_event("predict failed", route="chain")
        assert "thirteen" in inner["traceback"]
        outer = server.wait_for_event("predict failed", route="predict")
        assert inner["error_id"] in outer["traceback"]  # one leads to the other
        assert server.predict(x=1).status == 200


@WHERE
def test_a_model_that_is_full_or_gone_is_503(tmp_path: Path, weights: Path, workers: int) -> None:
    with pipeline(tmp_path, weights, workers, max_queue=1) as server, ThreadPoolExecutor(1) as pool:
        busy = pool.submit(server.post, "/models/leaf/predict", {"x": 1, "seconds": 1.0})
        time.sleep(0.3)
        full = server.predict(x=1)
        assert full.status == 503
        assert "model 'leaf': the queue is full" in full.json["error"]
        assert int(full.headers["Retry-After"]) >= 1
        assert busy.result().status == 200
        assert server.post("/v2/repository/models/leaf/unload", {}).status == 200
        gone = server.predict(x=1)
        assert gone.status == 503
        assert "no model 'leaf'" in gone.json["error"]
        ready = server.get("/v2/models/pipeline/ready")
        assert ready.status == 503
        assert "'leaf'" in ready.json["error"]
        assert server.post("/v2/repository/models/leaf/load", {}).status == 200
        assert server.get("/v2/models/pipeline/ready").status == 200
        assert server.predict(x=1).status == 200


@WHERE
def test_a_predictor_may_deal_with_a_failure_itself(tmp_path: Path, workers: int) -> None:
    with serving_models(tmp_path, model("Handles", workers=workers), model("Leaf")) as server:
        assert server.predict(x=-1).json == "input: model 'leaf': x: expected 0 or more"
        assert server.predict(x=13).json.startswith("500: model 'leaf': the model failed; the log has the traceback")
        assert server.predict(x=1).json == "2.0"


def test_a_remembered_answer_is_not_changed_by_who_got_it(tmp_path: Path, weights: Path) -> None:
    with pipeline(tmp_path, weights, 0, cache_bytes=100_000) as server:
        assert [server.predict(x=1).json["sum"] for _ in range(3)] == [-8.0] * 3
        assert 'berth_cache_hits_total{model="leaf",version="1"} 2' in server.get("/metrics").body.decode()


@WHERE
@pytest.mark.parametrize(
    ("models", "words"),
    [
        (
            [("first", "First"), ("second", "Second"), ("third", "Third")],
            "in a circle: third (version 1) -> first (version 1) -> second (version 1) -> third (version 1)",
        ),
        ([("second", "First")], "in a circle: second (version 1) -> second (version 1)"),
        ([("first", "First")], "model 'first' calls 'second', which this server was not given; it has 'first'"),
        ([("a", "CallsInLoad"), ("leaf", "Leaf")], "call other models in predict"),
    ],
)
def test_a_chain_that_cannot_work_stops_the_start(
    tmp_path: Path, workers: int, models: list[tuple[str, str]], words: str
) -> None:
    path = tmp_path / "models.json"
    path.write_text(json.dumps([model(cls, workers=workers) | {"name": name} for name, cls in models]))
    done = run("serve", MODELS=str(path))
    assert done.returncode == 1
    assert words in done.stderr


def test_an_older_version_of_itself_may_be_called(tmp_path: Path) -> None:
    text = "import berth\n\n\nclass Two:\n    def load(self) -> None:\n"
    text += '        self.one = berth.use_model("m", "1")\n\n    def predict(self, x: float) -> float:\n'
    text += '        return float(self.one.predict(x=x)["x"]) * 10\n'
    (tmp_path / "two.py").write_text(text)
    path = tmp_path / "models.json"
    path.write_text(json.dumps([model("Leaf") | {"name": "m"}, {"name": "m", "version": "2", "predictor": "two:Two"}]))
    with serving(cwd=tmp_path, MODELS=str(path)) as server:
        assert server.predict(x=1).json == 20.0


def test_a_handle_outside_of_load_is_an_error(tmp_path: Path) -> None:
    with serving_models(tmp_path, model("UsesInPredict"), model("Leaf")) as server:
        assert server.predict(x=1).status == 500
        assert "outside of load" in server.wait_for_event("predict failed")["traceback"]


def test_the_command_line_calls_too(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text(json.dumps([model("Handles"), model("Leaf")]))
    assert run("predict", "-i", "x=1", MODELS=str(path)).stdout == '"2.0"\n'
    path.write_text(json.dumps([model("First"), model("Second"), model("Third")]))
    done = run("predict", "-i", "x=1", MODELS=str(path))
    assert done.returncode == 1
    assert "in a circle" in done.stderr
