"""A berth that something is done to, and what its clients saw: what the scenarios of `robustness` share.

`faults`, `overload` and `extremes` are those scenarios.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.serving.client import Reply, hang_up

START_S = 30.0
PREDICTORS = '''
import math, os, time
from typing import Annotated
import numpy as np
import berth

class Spin:
    """20 ms of pure Python."""
    def predict(self, value: int, ms: float = 20.0) -> dict[str, int]:
        end = time.perf_counter() + ms / 1000
        while time.perf_counter() < end:
            pass
        return {"value": value, "pid": os.getpid()}

class Compute:
    """20 ms of processor time, whoever else computes meanwhile."""
    def predict(self, value: int) -> int:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return value

class Wait:
    """20 ms on a device elsewhere."""
    def predict(self, value: int) -> int:
        time.sleep(0.02)
        return value

class Rows:
    @berth.batched
    def predict(self, x: list[Annotated[np.ndarray, berth.Tensor("float32", (-1,))]]) -> list[float]:
        return [float(total) for total in np.stack(x).sum(axis=1)]

class Sum:
    def predict(self, x: Annotated[np.ndarray, berth.Tensor("float32", (-1, -1))]) -> float:
        return float(x.sum())
'''
Figures = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A running berth."""

    process: subprocess.Popen[bytes]
    port: int

    def connect(self) -> socket.socket:
        """A connection that sends at once what it is given."""
        return connected(self.port)

    def processes(self) -> list[int]:
        """It, its template and its workers."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        """Of all its processes so far."""
        return sum(_cpu_seconds(f"/proc/{pid}/stat") for pid in self.processes())

    def loop_seconds(self) -> float:
        """Of the thread that all connections are served in."""
        return _cpu_seconds(f"/proc/{self.process.pid}/task/{self.process.pid}/stat")

    def memory_mib(self, field: str) -> float:
        """VmRSS, or VmHWM for the most that it ever was, of the server's own process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return round(int(line.split()[1]) / 1024, 1)
        return 0.0


def _cpu_seconds(stat: str) -> float:
    fields = Path(stat).read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connected(port: int) -> socket.socket:
    """A connection to this port of ours that sends at once what it is given."""
    connection = socket.create_connection(("127.0.0.1", port), START_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@contextmanager
def served(**settings: object) -> Iterator[Server]:
    """berth on core 0, ready, with these BERTH_* settings; what is left of it is ended."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        Path(name, "robust.py").write_text(PREDICTORS)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("BERTH_")}
        own = {"HOST": "127.0.0.1", "PORT": port, "ACTIVATION_SOCKET": "", "LOG_LEVEL": "warning", **settings}
        environment = {**kept, **{f"BERTH_{key}": str(value) for key, value in own.items()}}
        command = ["taskset", "-c", "0", sys.executable, "-m", "berth"]
        with subprocess.Popen(command, env=environment, cwd=name, stderr=subprocess.DEVNULL) as process:
            try:
                _wait_until_ready(process, port)
                yield Server(process, port)
            finally:
                process.terminate()
                process.wait(60)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if probe.recv(12).endswith(b"200"):
                    return
        time.sleep(0.02)
    raise RuntimeError("berth did not start")


def quantiles(seconds: Sequence[float]) -> Figures:
    """Median, 99th percentile and most, in milliseconds."""
    if not seconds:
        return {"count": 0}
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    figures = {"p50_ms": statistics.median(ordered), "p99_ms": p99, "max_ms": ordered[-1]}
    return {"count": len(ordered), **{name: round(value * 1000, 2) for name, value in figures.items()}}


class Tally:
    """What became of the requests of one run."""

    def __init__(self) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.refused_connections = 0

    def judge(self, value: int, reply: Reply) -> None:
        """Count an answer of `Spin`."""
        if reply.status == 200 and reply.json["value"] == value:
            self.answered += 1
        else:
            self.wrong.append(f"{reply.status} {reply.body[:200]!r}")

    def figures(self) -> Figures:
        """The counts, and the first few of what went wrong."""
        return {
            "answered": self.answered,
            "lost": len(self.lost),
            "wrong": len(self.wrong),
            "connections_refused": self.refused_connections,
            "examples": (self.lost + self.wrong)[:3],
        }


def marked(figures: Figures, holds: bool) -> Figures:
    """Figures, and whether they are as they should be."""
    return {**figures, "holds": holds}


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """The client's part of a scenario, on a loop of its own; no connection is left."""

    async def to_its_end() -> Any:
        try:
            return await work
        finally:
            await hang_up()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(to_its_end())
