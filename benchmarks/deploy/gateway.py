"""What the gateway costs: time added to a request, and how many requests it carries on one core.

A berth with the tiny model of `benchmarks.serving.tiny` answers on a TCP port, and is asked there directly and through
the gateway, one connection, in turns: the difference of the medians is what the gateway adds. Then nginx, which answers
with a constant and so is never the limit, stands behind the gateway, and 64 connections ask as fast as they can.

The gateway has one thread on one core; berth or nginx, and wrk, share the other one. Called by `benchmarks.run`;
`python -m benchmarks.deploy.gateway` prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.serving import tiny
from dockyard.engines.sockets import Activation, Listener
from dockyard.gateway.base import GatewaySettings
from dockyard.gateway.envoy import EnvoyGateway
from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, UnixAddress

GATEWAY_CORE, OTHERS_CORE = 0, 1
CONNECTIONS = 64
DEADLINE_S = 20.0
NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen unix:{socket} backlog=4096;
    default_type application/json;
    location / {{ return 200 '{{"model_name":"model","outputs":[]}}'; }}
  }}
}}
"""


def measure(*, runs: int = 5, seconds: int = 3) -> dict[str, object]:
    """Every run, the medians, and what the gateway adds at the median, in microseconds."""
    return asyncio.run(_measure(runs, seconds))


async def _measure(runs: int, seconds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="dy-") as name:
        folder = Path(name)
        script = folder / "infer.lua"
        script.write_text(tiny.LUA)
        async with _berth(folder) as (direct, socket), _gateway(folder, socket) as through:
            alone, added = await _in_turns(direct, through, runs, seconds, script)
        with _nginx(folder) as socket:
            async with _gateway(folder, socket) as through:
                most = await _several(through, runs, seconds, script)
                resident = through.resident_mib()
    added_us = 1000 * (statistics.median(run.p50_ms for run in added) - statistics.median(run.p50_ms for run in alone))
    return {
        "benchmark": "deploy/gateway",
        "direct": [asdict(run) for run in alone],
        "through": [asdict(run) for run in added],
        "most": [asdict(run) for run in most],
        "connections_of_most": CONNECTIONS,
        "added_p50_us": round(added_us, 1),
        "errors": sum(run.errors for run in (*alone, *added, *most)),
        "median_requests_per_second": statistics.median(run.requests_per_second for run in most),
        "median_requests_per_cpu_second": statistics.median(run.requests_per_cpu_second for run in most),
        "resident_mib": resident,
    }


async def _in_turns(
    direct: tiny.Served, through: tiny.Served, runs: int, seconds: int, script: Path
) -> tuple[list[tiny.Run], list[tiny.Run]]:
    results: tuple[list[tiny.Run], list[tiny.Run]] = ([], [])
    for server in (direct, through):
        await asyncio.to_thread(tiny.drive, server, OTHERS_CORE, 1, 1, script)  # warm
    for _ in range(runs):
        for server, found in zip((direct, through), results, strict=True):
            found.append(await asyncio.to_thread(tiny.drive, server, OTHERS_CORE, seconds, 1, script))
    return results


async def _several(server: tiny.Served, runs: int, seconds: int, script: Path) -> list[tiny.Run]:
    await asyncio.to_thread(tiny.drive, server, OTHERS_CORE, 1, CONNECTIONS, script)  # warm
    return [await asyncio.to_thread(tiny.drive, server, OTHERS_CORE, seconds, CONNECTIONS, script) for _ in range(runs)]


@asynccontextmanager
async def _gateway(folder: Path, socket: Path) -> AsyncIterator[tiny.Served]:
    """The gateway as it is shipped, access log and all, with one thread on its core."""
    settings = GatewaySettings(folder / "gateway", port=tiny.free_port(), workers=1)
    gateway = await EnvoyGateway.start(settings)
    try:
        endpoint = Endpoint("replica", UnixAddress(str(socket)))
        await gateway.apply(Snapshot(services=(Service(name="model", weights={1: 1}, endpoints={1: (endpoint,)}),)))
        for task in Path(f"/proc/{gateway.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {GATEWAY_CORE})
        yield tiny.Served(gateway.address, gateway.pid)
    finally:
        await gateway.stop()


@asynccontextmanager
async def _berth(folder: Path) -> AsyncIterator[tuple[tiny.Served, Path]]:
    """berth as an engine starts it, with its unix socket and a TCP port handed over."""
    with Listener.bind(folder / "sockets", publish=0) as listener, Activation(listener) as activation:
        settings = {
            "BERTH_FORMAT": "onnx",
            "BERTH_WEIGHTS": str(tiny.train(folder)),
            "BERTH_ACTIVATION_SOCKET": str(folder / "sockets" / "activate.sock"),
        }
        with _pinned([sys.executable, "-m", "berth"], settings) as process:
            async with asyncio.timeout(DEADLINE_S):
                await activation.hand_over()
                await activation.wait_ready()
            yield tiny.Served(f"http://127.0.0.1:{listener.ports[0]}", process.pid), listener.socket


@contextmanager
def _nginx(folder: Path) -> Iterator[Path]:
    """A server that is much faster than the gateway; its unix socket."""
    socket, file = folder / "nginx.sock", folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, socket=socket))
    with _pinned(["nginx", "-e", "stderr", "-p", str(folder), "-c", str(file)], {}):
        yield socket


@contextmanager
def _pinned(command: list[str], settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BERTH_")}
    pinned = ["taskset", "-c", str(OTHERS_CORE), *command]
    with subprocess.Popen(pinned, env=kept | settings, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    result: dict[str, Any] = measure(**vars(options))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
