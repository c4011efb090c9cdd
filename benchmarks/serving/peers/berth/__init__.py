"""berth, from this checkout: the settings that an image has, but without its access log, as for everyone."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from benchmarks.serving.asking import Ask, v2_binary, v2_grpc, v2_json
from benchmarks.serving.models import Model
from benchmarks.serving.peers import Peer, Site, python_path

SPEAKS_GRPC = importlib.util.find_spec("berth.grpc") is not None


def _asks(model: Model) -> Sequence[Ask]:
    return [v2_json(model), v2_binary(model), *([v2_grpc(model)] if SPEAKS_GRPC else [])]


def _environment(site: Site) -> Mapping[str, str]:
    common = {
        "BERTH_HOST": "127.0.0.1",
        "BERTH_PORT": str(site.port),
        "BERTH_ACTIVATION_SOCKET": "",
        "BERTH_LOG_LEVEL": "warning",
    }
    if site.model.name == "python":
        return common | {
            "BERTH_PREDICTOR": "predictor:Predictor",
            "BERTH_WORKERS": str(site.model.workers),
            **python_path(__file__),
        }
    return common | {"BERTH_FORMAT": "onnx", "BERTH_WEIGHTS": str(site.model.folder / f"{site.model.name}.onnx")}


def _command(site: Site) -> Sequence[str]:
    return [str(site.python), "-m", "berth"]


PEERS = (
    Peer(
        "berth",
        "berth",
        "defaults, log level warning; the 20 ms predictor in two worker processes",
        asks=_asks,
        command=_command,
        environment=_environment,
        one_port=True,
    ),
)
