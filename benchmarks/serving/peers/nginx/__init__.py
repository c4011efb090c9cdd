"""nginx that returns the right answer as a constant: as much HTTP as one core can do here. For scale only."""

from __future__ import annotations

import json
from collections.abc import Sequence

from benchmarks.nginx import ENDLESS, configuration
from benchmarks.serving.asking import Ask, v2_json
from benchmarks.serving.models import Model
from benchmarks.serving.peers import Peer, Site

_SERVER = """
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    default_type application/json;
    location / {{ return 200 '{answer}'; }}
  }}
"""


def _asks(model: Model) -> Sequence[Ask]:
    return [v2_json(model)] if model.name == "tiny" else []


def _command(site: Site) -> Sequence[str]:
    numbers = [float(str(value)) for value in site.model.answer.ravel()]
    output = {"name": "Y", "shape": site.model.answer.shape, "datatype": "FP32", "data": numbers}
    answer = json.dumps({"model_name": "model", "outputs": [output]}, separators=(",", ":"))
    file = site.folder / "nginx.conf"
    main = "daemon off; worker_processes 1; error_log stderr error;"
    file.write_text(configuration(site.folder, main, ENDLESS + _SERVER.format(port=site.port, answer=answer)))
    return ["nginx", "-e", "stderr", "-p", str(site.folder), "-c", str(file)]


PEERS = (
    Peer(
        "nginx",
        "nginx, constant answer",
        "for scale: one worker, no log, no model; the answer is written in its configuration",
        asks=_asks,
        command=_command,
        programs=("nginx",),
        constant=True,
    ),
)
