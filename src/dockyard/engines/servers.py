"""Servers in images that Dockyard did not build: on which port they listen, and what they answer when they are well.

The yard calls `foreign_server` to turn what a deployment says into a port for `ContainerSpec` and paths for probes. A
deployment's own words win over a preset's. Sources: Triton's "Extensions", TensorFlow Serving's "RESTful API",
TorchServe's "Inference API".
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


_USUAL = Probes()
_TRITON = ("tritonserver", "--model-repository=/models")
# {MODEL_NAME} is the variable of the container; TensorFlow Serving's image says `model`.
PRESETS: Mapping[str, ForeignServer] = {
    "triton": ForeignServer(8000, "/v2/health/ready", "/v2/health/live", _TRITON),
    "tfserving": ForeignServer(8501, "/v1/models/{MODEL_NAME}", "/v1/models/{MODEL_NAME}"),
    "torchserve": ForeignServer(8080, "/ping", "/ping"),
}


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
