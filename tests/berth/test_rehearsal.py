"""Before it is ready a server answers requests that nobody sent; nothing of that shows, and no predictor is asked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from berth.rehearsal import MAX_REQUESTS
from tests.berth.support import Berth, predictor, serving

_COUNTED = re.compile(
    r"nv_inference|berth_(request|queue|batch|decode|predict|encode)\w*_count|berth_cache|berth_express"
)
PATIENT = "60000"
"""Milliseconds: however busy the machine, the rehearsal ends by its count."""


def rehearsed(berth: Berth) -> int:
    """How many requests were rehearsed, by the one line that tells."""
    events = [event for event in berth.events() if event["message"] == "rehearsed"]
    return sum(event["requests"] for event in events)


def untouched(berth: Berth) -> None:
    """Nothing that is counted has been counted, and no request was logged."""
    lines = [line.rsplit(" ", 1) for line in berth.get("/metrics").body.decode().splitlines() if line[0] != "#"]
    counted = [(name, value) for name, value in lines if _COUNTED.match(name)]
    assert len(counted) > 10
    assert [name for name, value in counted if float(value)] == []
    (stats,) = berth.get("/v2/models/stats").json["model_stats"]
    assert stats["inference_count"] == stats["execution_count"] == 0
    assert stats["last_inference"] == 0
    assert [event for event in berth.events() if event["message"] == "request" and event.get("model")] == []


def with_golden(folder: Path, inputs: Any, outputs: Any) -> dict[str, str]:
    """One golden, which is asked before the server is ready."""
    (folder / "one.json").write_text(json.dumps({"inputs": inputs, "outputs": outputs}))
    return {"GOLDENS": str(folder), "SELFTEST": "on", "LOG_LEVEL": "debug", "REHEARSAL_MS": PATIENT}


@pytest.mark.parametrize("more", [{}, {"CACHE_BYTES": "1000000"}, {"MAX_BATCH_DELAY_MS": "200"}])
def test_a_backends_model_is_asked_often_and_nothing_of_it_shows(weights: Path, more: dict[str, str]) -> None:
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "double.onnx"), "LOG_LEVEL": "debug"}
    with serving(REHEARSAL_MS=PATIENT, **settings, **more) as berth:
        assert rehearsed(berth) == MAX_REQUESTS
        untouched(berth)
        answer = berth.predict(x=[[1, 2]])
        assert answer.json == {"y": [[2, 4]]}
        assert "hit" not in answer.headers.get("Cache-Status", "")


@pytest.mark.parametrize("weight", ["text", "wide"])
def test_a_backends_model_whose_inputs_cannot_be_invented_is_left_alone(weights: Path, weight: str) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / f"{weight}.onnx"), LOG_LEVEL="debug") as berth:
        assert rehearsed(berth) == 0


@pytest.mark.parametrize("weight", ["half", "fixed", "pair", "bytes"])
def test_any_backends_model_is_ready_after_it(weights: Path, weight: str) -> None:
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / f"{weight}.onnx"), "LOG_LEVEL": "debug"}
    with serving(REHEARSAL_MS=PATIENT, **settings) as berth:
        assert rehearsed(berth) <= MAX_REQUESTS
        untouched(berth)
        assert not [event for event in berth.events() if event["level"] in ("warning", "error")]


def test_several_models_share_what_is_asked(weights: Path) -> None:
    models = [{"name": name, "format": "onnx", "weights": str(weights / "double.onnx")} for name in "ab"]
    with serving(MODELS=json.dumps(models), LOG_LEVEL="debug", REHEARSAL_MS=PATIENT) as berth:
        assert rehearsed(berth) == MAX_REQUESTS


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("name", ["Counts", "CountsApart"])
def test_a_predictor_is_asked_its_golden_once_and_what_it_said_is_rehearsed(
    tmp_path: Path, name: str, workers: str
) -> None:
    settings = with_golden(tmp_path, {"x": 1}, {"value": 2, "asked": 1})
    with serving(PREDICTOR=f"models_rehearsal:{name}", WORKERS=workers, **settings) as berth:
        assert rehearsed(berth) == MAX_REQUESTS
        untouched(berth)
        assert berth.predict(x=2).json == {"value": 4, "asked": 2}


@pytest.mark.parametrize("name", ["Yields", "YieldsApart"])
def test_so_is_one_that_yields(tmp_path: Path, name: str) -> None:
    settings = with_golden(tmp_path, {"x": 1}, [1, 1])
    with serving(PREDICTOR=f"models_rehearsal:{name}", **settings) as berth:
        assert rehearsed(berth) == MAX_REQUESTS
        untouched(berth)
        assert berth.post("/predict", {"x": 1}, {"Accept": "application/json"}).json == [1, 2]


def test_a_predictor_without_goldens_is_not_asked() -> None:
    with serving(**predictor("Structured", LOG_LEVEL="debug")) as berth:
        assert rehearsed(berth) == 0


def test_it_can_be_turned_off(weights: Path, tmp_path: Path) -> None:
    golden = with_golden(tmp_path, {"x": 1}, {"value": 2, "asked": 1}) | {"REHEARSAL_MS": "0"}
    with serving(PREDICTOR="models_rehearsal:Counts", **golden) as berth:
        assert rehearsed(berth) == 0
    settings = {"FORMAT": "onnx", "WEIGHTS": str(weights / "double.onnx")}
    with serving(**settings, LOG_LEVEL="debug", REHEARSAL_MS="0") as berth:
        assert rehearsed(berth) == 0
