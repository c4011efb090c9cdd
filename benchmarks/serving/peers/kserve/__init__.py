"""KServe's Python SDK: a Model over V2 JSON, V2 binary and gRPC."""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.serving.asking import Ask, v2_binary, v2_grpc, v2_json
from benchmarks.serving.environments import shared_requirements
from benchmarks.serving.models import Model
from benchmarks.serving.peers import Peer, Site, serve_file


def _asks(model: Model) -> Sequence[Ask]:
    return [v2_json(model), v2_binary(model), v2_grpc(model)]


def _command(site: Site) -> Sequence[str]:
    quiet = {
        name: {"level": "WARNING", "handlers": [], "propagate": False} for name in ("uvicorn.access", "kserve.trace")
    }
    logging = site.folder / "logging.json"
    logging.write_text(json.dumps({"version": 1, "disable_existing_loggers": False, "loggers": quiet}))
    words = [f"--http_port={site.port}", f"--grpc_port={site.grpc_port}", f"--workers={site.model.workers}"]
    words += ["--enable_latency_logging=false", f"--log_config_file={logging}"]
    return [str(site.python), serve_file(__file__), *words]


PEERS = (
    Peer(
        "kserve",
        "KServe SDK",
        "one uvicorn worker (the 20 ms predictor: two), access and latency log off",
        asks=_asks,
        command=_command,
        requirements=("kserve==0.21.0", *shared_requirements()),
        health="/v2/health/live",
    ),
)
