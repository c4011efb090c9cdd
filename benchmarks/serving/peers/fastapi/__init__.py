"""FastAPI on uvicorn, written by hand as somebody competent would: uvloop, httptools, orjson, no models of the body."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.serving.asking import Ask, raw_floats, v2_json
from benchmarks.serving.environments import shared_requirements
from benchmarks.serving.models import Model
from benchmarks.serving.peers import Peer, Site, serve_file


def _asks(model: Model) -> Sequence[Ask]:
    return [v2_json(model, "/infer"), raw_floats(model, "/raw")]


def _command(site: Site) -> Sequence[str]:
    return [str(site.python), serve_file(__file__)]


PEERS = (
    Peer(
        "fastapi",
        "FastAPI + uvicorn by hand",
        "one uvicorn worker (the 20 ms predictor: two), uvloop, httptools, orjson; inference on the event loop",
        asks=_asks,
        command=_command,
        requirements=("fastapi==0.165.0", "uvicorn[standard]==0.54.0", "orjson==3.13.0", *shared_requirements()),
        health="/health",
    ),
)
