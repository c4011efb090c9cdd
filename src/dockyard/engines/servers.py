"""Servers in images that Dockyard did not build: where they listen, what they answer when they are well, their metrics.

The yard calls `foreign_server` to turn what a deployment says into a port for `ContainerSpec` and paths for probes, and
`metrics_page` to find what such a server counts. A deployment's own words win over a preset's. Sources: Triton's
"Extensions" and "Metrics", TensorFlow Serving's "RESTful API" and "Configuration", TorchServe's "Inference API" and
"Metrics API".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dockyard.spec.deployment import Probes, Server


@dataclass(frozen=True)
class ForeignServer:
    """A server's port, the paths that answer 200 when it is ready and while it lives, and its arguments if not the
    image's own."""

    port: int
    ready_path: str
    live_path: str
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricsPage:
    """Where a server says what it counts, as Prometheus reads it. `port`: 0 is the one on which it serves."""

    port: int = 0
    path: str = "/metrics"


_USUAL = Probes()
_TRITON = ("tritonserver", "--model-repository=/models")
# {MODEL_NAME} is the variable of the container; TensorFlow Serving's image says `model`.
PRESETS: Mapping[str, ForeignServer] = {
    "triton": ForeignServer(8000, "/v2/health/ready", "/v2/health/live", _TRITON),
    "tfserving": ForeignServer(8501, "/v1/models/{MODEL_NAME}", "/v1/models/{MODEL_NAME}"),
    "torchserve": ForeignServer(8080, "/ping", "/ping"),
}

METRICS: Mapping[str, MetricsPage] = {
    "triton": MetricsPage(8002),
    "tfserving": MetricsPage(path="/monitoring/prometheus/metrics"),
    "torchserve": MetricsPage(8082),
}


def metrics_page(server: Server) -> MetricsPage:
    """Where the server that a deployment means would have its page of metrics; it need not have one."""
    return METRICS.get(server.preset, MetricsPage())


def foreign_server(server: Server, probes: Probes, variables: Mapping[str, str]) -> ForeignServer | None:
    """The server that a deployment means, with `variables` as `ContainerSpec.variables`; None for berth's own."""
    if not server.preset and not server.port:
        return None
    preset = PRESETS.get(server.preset, ForeignServer(server.port, probes.ready_path, probes.live_path))
    ready = preset.ready_path if probes.ready_path == _USUAL.ready_path else probes.ready_path
    live = preset.live_path if probes.live_path == _USUAL.live_path else probes.live_path
    name = variables.get("MODEL_NAME", "model")
    return ForeignServer(
        port=server.port or preset.port,
        ready_path=ready.replace("{MODEL_NAME}", name),
        live_path=live.replace("{MODEL_NAME}", name),
        command=server.command or preset.command,
    )
