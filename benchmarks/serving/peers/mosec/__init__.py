"""mosec: an HTTP server in Rust in front of Python workers; without and with its batching.

A worker has one way to read a body, so JSON and raw floats are two servers. Its batching has to wait: the shortest wait
it takes is one millisecond, and that is what it gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.serving.asking import Ask, raw_floats, v2_json
from benchmarks.serving.environments import shared_requirements
from benchmarks.serving.models import Model
from benchmarks.serving.peers import Peer, Site, serve_file

_REQUIREMENTS = ("mosec==0.9.8", "orjson==3.13.0", *shared_requirements())


def _asks(model: Model) -> Sequence[Ask]:
    return [v2_json(model, "/infer"), raw_floats(model, "/infer")]


def _command(site: Site) -> Sequence[str]:
    words = ["--address=127.0.0.1", f"--port={site.port}", f"--path={site.folder}/ipc", "--timeout=30000"]
    return [str(site.python), serve_file(__file__), *words, "--log-level=warning"]


def _batching(_site: Site) -> Mapping[str, str]:
    return {"BENCH_BATCH": "64"}


PEERS = (
    Peer(
        "mosec",
        "mosec",
        "one worker process (the 20 ms predictor: two), orjson, log level warning",
        asks=_asks,
        command=_command,
        requirements=_REQUIREMENTS,
        health="/",
        per_protocol=True,
    ),
    Peer(
        "mosec-batching",
        "mosec, batching",
        "the same with max_batch_size=64, max_wait_time=1 ms (its least)",
        asks=_asks,
        command=_command,
        requirements=_REQUIREMENTS,
        environment=_batching,
        health="/",
        per_protocol=True,
    ),
)
