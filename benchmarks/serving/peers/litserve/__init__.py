"""LitServe: without and with its batching. It reads a body as JSON or as a form, so its binary way is a file in a form.

Each API has worker processes of its own, so JSON and binary are two servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.serving.asking import Ask, form_file, v2_json
from benchmarks.serving.environments import shared_requirements
from benchmarks.serving.models import Model
from benchmarks.serving.peers import Peer, Site, serve_file

_REQUIREMENTS = ("litserve==0.2.19", "pyzmq==27.3.0", "python-multipart==0.0.20", *shared_requirements())


def _asks(model: Model) -> Sequence[Ask]:
    return [v2_json(model, "/predict"), form_file(model, "/predict")]


def _command(site: Site) -> Sequence[str]:
    return [str(site.python), serve_file(__file__)]


def _batching(_site: Site) -> Mapping[str, str]:
    return {"BENCH_BATCH": "64"}


PEERS = (
    Peer(
        "litserve",
        "LitServe",
        "one worker and one API server (the 20 ms predictor: two workers), fast_queue, no access log",
        asks=_asks,
        command=_command,
        requirements=_REQUIREMENTS,
        health="/health",
        per_protocol=True,
    ),
    Peer(
        "litserve-batching",
        "LitServe, batching",
        "the same with max_batch_size=64, batch_timeout=1 ms",
        asks=_asks,
        command=_command,
        requirements=_REQUIREMENTS,
        environment=_batching,
        health="/health",
        per_protocol=True,
    ),
)
