"""granian (an HTTP server in Rust) with a bare handler written by hand: what is left when there is no framework.

For scale only: it knows no signatures, no errors, no queue, no metrics.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.serving.asking import Ask, raw_floats, v2_json
from benchmarks.serving.environments import shared_requirements
from benchmarks.serving.models import Model
from benchmarks.serving.peers import Peer, Site, serve_file


def _asks(model: Model) -> Sequence[Ask]:
    return [] if model.name == "python" else [v2_json(model, "/infer"), raw_floats(model, "/raw")]


def _command(site: Site) -> Sequence[str]:
    return [str(site.python), serve_file(__file__)]


PEERS = (
    Peer(
        "granian",
        "granian, bare handler",
        "for scale: RSGI handler with orjson that runs the model on the event loop and checks nothing",
        asks=_asks,
        command=_command,
        requirements=("granian==2.8.7", "uvloop==0.23.0", "orjson==3.13.0", *shared_requirements()),
        health="/health",
        constant=True,
    ),
)
