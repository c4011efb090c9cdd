"""BERTH_SELFTEST: a server answers its image's goldens before it is ready, or does not serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.berth.support import predictor, run, serving

HOLDS = {"inputs": {"x": 3}, "outputs": {"label": "a", "score": 1.5, "vector": [3, 3, 3]}}
DIFFERS = {"inputs": {"x": 3}, "outputs": {"label": "a", "score": 1.5, "vector": [3, 3, 4]}}


def write(folder: Path, **goldens: Any) -> dict[str, str]:
    """The goldens as files, and the settings that have them answered."""
    folder.mkdir(exist_ok=True)
    for name, content in goldens.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {"GOLDENS": str(folder), "SELFTEST": "on"}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_server_whose_goldens_hold_says_so_before_it_is_ready(tmp_path: Path, workers: str) -> None:
    near = {"inputs": {"x": 1}, "outputs": HOLDS["outputs"], "tolerance": {"absolute": 9}}
    settings = write(tmp_path, one=HOLDS, near=near)
    with serving(**predictor("Structured", WORKERS=workers, **settings)) as berth:
        berth.wait_for_event("selftest passed", goldens=2)
        messages = [event["message"] for event in berth.events()]
        assert messages.index("selftest passed") < messages.index("ready")
        assert 'nv_inference_request_success{model="model",version="1"} 0' in berth.get("/metrics").body.decode()
        assert berth.predict(x=3).status == 200
        assert berth.terminate() == 0


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_golden_that_differs_ends_the_start_and_is_named(tmp_path: Path, workers: str) -> None:
    done = run("serve", **predictor("Structured", WORKERS=workers, **write(tmp_path, one=HOLDS, wrong=DIFFERS)))
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (told,) = [line for line in lines if line["message"] == "golden differs"]
    assert (told["golden"], told["problem"]) == ("wrong", "$.vector[2]: expected 4, got 3.0")
    assert not [line for line in lines if line["message"] == "ready"]
    assert "1 of 2 goldens differ" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("golden", "problem"),
    [({"inputs": {"y": 3}, "outputs": None}, "y"), ({"inputs": {"x": 1}, "outputs": 1}, "predict failed: broken")],
)
def test_a_golden_that_is_refused_or_fails_ends_the_start(tmp_path: Path, golden: Any, problem: str) -> None:
    done = run("serve", **predictor("RaisesInPredict", **write(tmp_path, one=golden)))
    assert done.returncode == 1
    assert problem in done.stderr


def test_a_model_that_does_not_answer_in_time_is_not_served(tmp_path: Path) -> None:
    golden = {"inputs": {"seconds": 30}, "outputs": 30}
    done = run("serve", **predictor("Slow", REQUEST_TIMEOUT_S="0.5", **write(tmp_path, slow=golden)))
    assert done.returncode == 1
    assert "no answer within 0.5 s" in done.stderr


@pytest.mark.parametrize("name", ["Tokens", "AsyncTokens"])
def test_what_a_predictor_yields_is_compared_as_a_list(tmp_path: Path, name: str) -> None:
    tokens = [{"text": "a", "index": 0}, {"text": "a", "index": 1}]
    golden = {"inputs": {"text": "a", "count": 2}, "outputs": tokens}
    settings = {"PREDICTOR": f"models_streams:{name}", **write(tmp_path, one=golden)}
    with serving(**settings) as berth:
        berth.wait_for_event("selftest passed", goldens=1)
    done = run("serve", **settings | write(tmp_path, more={**golden, "outputs": [*tokens, {}]}))
    assert "expected 3 items, got 2" in done.stderr


def test_a_predictor_that_awaits_is_asked_on_its_loop(tmp_path: Path) -> None:
    settings = write(tmp_path, one={"inputs": {"seconds": 0}, "outputs": 0})
    with serving(PREDICTOR="models_streams:Sleeper", **settings) as berth:
        berth.wait_for_event("selftest passed", goldens=1)


def test_without_goldens_the_server_says_so_and_serves(tmp_path: Path) -> None:
    with serving(**predictor("Structured", **write(tmp_path / "none"))) as berth:
        assert "no goldens in" in berth.wait_for_event("selftest skipped")["reason"]
        assert berth.predict(x=3).status == 200


def test_a_file_that_is_no_golden_ends_the_start(tmp_path: Path) -> None:
    done = run("serve", **predictor("Structured", **write(tmp_path, one=[])))
    assert done.returncode == 1
    assert "one.json: not a golden" in done.stderr


def test_nobody_asks_unless_told_to(tmp_path: Path) -> None:
    settings = write(tmp_path, wrong=DIFFERS)
    with serving(**predictor("Structured", **settings | {"SELFTEST": "off"})) as berth:
        assert not [event for event in berth.events() if "golden" in event["message"]]
