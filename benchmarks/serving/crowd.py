"""Small networks that 64 callers ask at once, and 2,000: the scenario `overload-small` of `robustness`.

They answer as quickly as anything could be refused, so a crowd is not turned away; what it costs is the caches, which
2,000 connections do not fit into, in the kernel and above it. nginx returns a constant in the same run: what it loses
is the machine's. 64 and 2,000 take turns, because what a shared core does in a second varies with the minute.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.serving.asking import INFER, v2_json
from benchmarks.serving.impatient import ask_again
from benchmarks.serving.models import Model, export
from benchmarks.serving.overload import CONNECTIONS, measured
from benchmarks.serving.peers import Site, nginx
from benchmarks.serving.processes import Tree, remaining, running
from benchmarks.serving.tiny import free_port
from benchmarks.serving.under_test import START_S, Figures, Server, connected, marked, served

FEW = 64
TURNS = 3


def overload_small(rounds: int) -> Figures:
    """The tiny and the medium network and nginx, each with few callers and many in turns, for `rounds` seconds each."""
    seconds = max(1.0, min(8.0, rounds))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = export(("tiny", "medium"), folder)
        figures = {model.name: _network(model, seconds) for model in models}
        figures["nginx, a constant"] = _nginx(models[0], folder, seconds)
    return marked(figures, all(found["holds"] for found in figures.values()))


def _network(model: Model, seconds: float) -> Figures:
    with served(FORMAT="onnx", WEIGHTS=model.folder / f"{model.name}.onnx") as server:
        return _in_turns(server, model, seconds)


def _nginx(model: Model, folder: Path, seconds: float) -> Figures:
    port = free_port()
    (peer,) = nginx.PEERS
    command = peer.command(Site(Path(sys.executable), folder, port, 0, model, "json"))
    with running(command, os.environ, 0, folder / "nginx.log") as tree:
        server = Nginx(tree, port)
        server.wait()
        return _in_turns(server, model, seconds)


@dataclass(frozen=True)
class Nginx:
    """nginx, measured as a berth is."""

    tree: Tree
    port: int

    def connect(self) -> socket.socket:
        """A connection that sends at once what it is given."""
        return connected(self.port)

    def wait(self) -> None:
        """Until it listens; RuntimeError when it does not."""
        for _ in remaining(time.monotonic() + START_S):
            with suppress(ConnectionRefusedError), self.connect():
                return
        raise RuntimeError("nginx does not listen: is it installed (Debian: apt-get install nginx)?")

    def cpu_seconds(self) -> float:
        """Of all its processes so far."""
        return self.tree.cpu_seconds()

    loop_seconds = cpu_seconds


def _in_turns(server: Server | Nginx, model: Model, seconds: float) -> Figures:
    body = v2_json(model).body
    request = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    runs: dict[int, list[Figures]] = {FEW: [], CONNECTIONS: []}
    for _ in range(TURNS):
        for callers, found in runs.items():
            found.append(measured(server, seconds, partial(ask_again, server.connect, request, callers, seconds)))
    kept = [many["goodput_per_second"] / few["goodput_per_second"] for few, many in zip(*runs.values(), strict=True)]
    figures: Figures = {
        "goodput_of_peak": round(statistics.median(kept), 3),
        **{f"{callers} callers": _medians(found) for callers, found in runs.items()},
        "runs": runs,
    }
    good = all(set(one["statuses"]) == {200} and not one["resets"] for found in runs.values() for one in found)
    return marked(figures, good and figures["goodput_of_peak"] >= 0.9)


def _medians(runs: list[Figures]) -> Figures:
    return {
        "goodput_per_second": statistics.median(one["goodput_per_second"] for one in runs),
        "server_us_per_answer": statistics.median(one["server_us_per_answer"] for one in runs),
        "p99_ms": statistics.median(one["answered"]["p99_ms"] for one in runs),
    }
