"""MLServer with a runtime of one's own, over V2 JSON and gRPC. Over HTTP it reads no binary tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.serving.asking import Ask, v2_grpc, v2_json
from benchmarks.serving.environments import shared_requirements
from benchmarks.serving.models import Model
from benchmarks.serving.peers import Peer, Site, python_path


def _asks(model: Model) -> Sequence[Ask]:
    return [v2_json(model), v2_grpc(model)]


def _command(site: Site) -> Sequence[str]:
    workers = site.model.workers if site.model.workers > 1 else 0
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": site.port,
        "grpc_port": site.grpc_port,
        "metrics_endpoint": None,
        "parallel_workers": workers,
        "environments_dir": str(site.folder / "environments"),
        "logging_settings": {"version": 1, "incremental": True, "loggers": {"mlserver": {"level": "WARNING"}}},
    }
    (site.folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "model", "implementation": "serve.Runtime"}
    (site.folder / "model-settings.json").write_text(json.dumps(model))
    return [str(site.python.with_name("mlserver")), "start", str(site.folder)]


PEERS = (
    Peer(
        "mlserver",
        "MLServer",
        "parallel_workers=0, which is its quickest (the 20 ms predictor: 2); debug, metrics and access log off",
        asks=_asks,
        command=_command,
        environment=lambda _site: python_path(__file__),
        requirements=("mlserver==1.7.1", "uvloop==0.21.0", *shared_requirements()),
    ),
)
