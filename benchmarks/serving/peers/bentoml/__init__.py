"""BentoML: its new-style service with typed JSON, without and with its adaptive batching.

Its binary way from outside is a body of type application/octet-stream, which it hands over as a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.serving.asking import Ask, own_json, raw_floats, rows
from benchmarks.serving.environments import shared_requirements
from benchmarks.serving.models import Model
from benchmarks.serving.peers import Peer, Site

_REQUIREMENTS = ("bentoml==1.4.40", *shared_requirements())


def _json(model: Model) -> Ask:
    return own_json("/infer", {"X": rows(model)}, lambda answer: answer, "own JSON")


def _asks(model: Model) -> Sequence[Ask]:
    return [_json(model), replace(raw_floats(model, "/raw"), form="raw float32 as a file")]


def _batched_asks(model: Model) -> Sequence[Ask]:
    return [_json(model)]


def _command(site: Site) -> Sequence[str]:
    words = ["--host", "127.0.0.1", "--port", str(site.port), "--working-dir", __path__[0]]
    return [str(site.python), "-m", "bentoml", "serve", "serve:Model", *words]


def _environment(site: Site) -> Mapping[str, str]:
    return {"BENTOML_HOME": str(site.folder / "home"), "BENTOML_DO_NOT_TRACK": "True"}


def _batching(site: Site) -> Mapping[str, str]:
    return {**_environment(site), "BENCH_BATCH": "64"}


PEERS = (
    Peer(
        "bentoml",
        "BentoML",
        "one worker (the 20 ms predictor: two), access log off",
        asks=_asks,
        command=_command,
        requirements=_REQUIREMENTS,
        environment=_environment,
        health="/livez",
    ),
    Peer(
        "bentoml-batching",
        "BentoML, batching",
        "the same with batchable=True, max_batch_size=64",
        asks=_batched_asks,
        command=_command,
        requirements=_REQUIREMENTS,
        environment=_batching,
        health="/livez",
    ),
)
