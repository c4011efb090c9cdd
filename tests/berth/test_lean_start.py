"""A start takes its processor time from the replicas that answer: it does what serving needs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import berth
from berth.config import read_config
from berth.health import Health
from berth.metrics import Metrics
from berth.protocols import site
from berth.protocols.base import Refusal
from berth.repository import Repository
from tests.berth.support import DEADLINE_S, serving

# Other commands, what few servers are told to do, and protocols and libraries that nobody has asked for yet.
NOT_TO_SERVE = {
    *("argparse", "berth.command_line", "berth.commands", "berth.scoring", "berth.goldens", "berth.selftest"),
    *("berth.cache", "berth.image", "berth.local_calls", "berth.otlp", "berth.workers", "berth.workers.pool"),
    *("berth.grpc", "berth.http2", "berth.protocols.openai", "berth.protocols.openapi", "berth.protocols.page"),
    *("berth.protocols.hosted", "berth.protocols.tfserving", "berth.protocols.torchserve"),
    *("PIL", "csv", "difflib", "email", "google", "hpack", "html", "http.client", "numpy.testing", "onnxruntime"),
    *("simdjson", "sklearn", "tarfile", "unittest"),
}
OWN = """
import sys

class Imported:
    def predict(self, prefix: str = "") -> list[str]:
        return [name for name in sys.modules if name.startswith(prefix)]
"""
PATHS = [
    *("/", "/docs", "/openapi.json", "/favicon.ico", "/metrics", "/livez", "/ping", "/models", "/models/x"),
    *("/models/x/predict", "/models/x/docs", "/predict", "/predict/", "/predictions/x", "/explanations/x"),
    *("/v2", "/v2/", "/v2/models", "/v2/models/x", "/v2/models/x/infer", "/v2/nothing", "/v2/repository/index"),
    *("/v2/repository/models/x/load", "/v2/systemsharedmemory/x", "/v2/logging", "/v2/health/ready", "/v1"),
    *("/v1/models", "/v1/models/x", "/v1/models/x:predict", "/v1/embeddings", "/v1/nothing", "/invocations"),
    *("/%70redict", "/v2%2Fmodels", "/v1/%6dodels"),
]


def test_serving_imports_only_what_serving_needs(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with serving(None, {"PYTHONPATH": str(tmp_path)}, PREDICTOR="own:Imported") as server:
        assert server.get("/v2/health/ready").status == 200
        imported = set(server.predict(prefix="").json)
        assert "berth.server" in imported
        assert imported & NOT_TO_SERVE == set()


def _answer_of(faces: site.Faces, path: str) -> object:
    try:
        route = faces.find(path, path.replace("%70", "p").replace("%2F", "/").replace("%6d", "m"))
    except Refusal as refusal:
        return refusal.status, refusal.text
    return route and (route.path, route.name, sorted(route.handlers))


@pytest.mark.parametrize("routes", [{}, {"AIP_HEALTH_ROUTE": "/v2/health/ready", "AIP_PREDICT_ROUTE": "/predict"}])
def test_a_path_is_the_same_protocols_whether_all_are_mounted_or_the_first(routes: dict[str, str]) -> None:
    config = read_config({"BERTH_PREDICTOR": "models:Slow", **routes})
    parts = config, Repository(), Health(), Metrics(), None
    at_once = site.Faces(site.made(site.Site(*parts), site.FACES))  # type: ignore[arg-type]
    for path in PATHS:
        assert _answer_of(site.mount(site.Site(*parts)), path) == _answer_of(at_once, path), path  # type: ignore[arg-type]


def test_a_protocol_that_waits_answers_from_its_first_request_on() -> None:
    with serving(PREDICTOR="models:Slow") as server:
        assert server.post("/v1/nothing").json["error"]["type"]
        assert server.get("/models/model").json[0]["modelName"] == "model"
        assert server.get("/docs").status == 200
        assert server.get("/v2/models/model").status == 200


def test_whoever_imports_berth_waits_for_the_names_that_he_uses() -> None:
    program = "import sys, berth; berth.Meta, berth.InputError; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=DEADLINE_S, check=False).returncode == 0
    assert all(getattr(berth, name) is not None for name in berth.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = berth.Nothing
