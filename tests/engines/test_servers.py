"""Which port and paths a deployment's words mean."""

from __future__ import annotations

import pytest

from dockyard.engines.servers import METRICS, PRESETS, ForeignServer, MetricsPage, foreign_server, metrics_page
from dockyard.spec.deployment import Probes, Server


def test_an_image_of_our_own_has_no_foreign_server() -> None:
    assert foreign_server(Server(), Probes(), {}) is None


def test_a_port_alone_is_asked_on_the_usual_paths() -> None:
    found = foreign_server(Server(port=9000), Probes(), {})
    assert found == ForeignServer(9000, "/v2/health/ready", "/v2/health/live")


@pytest.mark.parametrize("preset", ["triton", "tfserving", "torchserve"])
def test_every_preset_has_a_port_and_paths(preset: str) -> None:
    found = foreign_server(Server(preset=preset), Probes(), {})
    assert found is not None
    assert found.port == PRESETS[preset].port
    assert found.ready_path.startswith("/")
    assert "{" not in found.ready_path + found.live_path


def test_tensorflow_serving_is_asked_about_the_model_that_its_variable_names() -> None:
    found = foreign_server(Server(preset="tfserving"), Probes(), {"MODEL_NAME": "half_plus_two"})
    assert found is not None
    assert found.ready_path == "/v1/models/half_plus_two"


def test_what_the_deployment_says_wins_over_the_preset() -> None:
    server = Server(preset="triton", port=9000, command=("tritonserver", "--model-store=/data"))
    found = foreign_server(server, Probes(ready_path="/ready", live_path="/alive"), {})
    assert found == ForeignServer(9000, "/ready", "/alive", server.command)


def test_every_preset_says_where_its_server_has_metrics_and_others_are_asked_on_their_port() -> None:
    assert METRICS.keys() == PRESETS.keys()
    assert metrics_page(Server(preset="triton", port=9000)) == MetricsPage(8002, "/metrics")
    assert metrics_page(Server(port=9000)) == MetricsPage(0, "/metrics")
