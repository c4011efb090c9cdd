"""What the gateway costs: time added to a request, and how many requests it carries on one core.

A server answers on a TCP port and on a unix socket. It is asked on the port directly, and on the socket through the
gateway, by one connection, in turns: the difference of the medians is what the gateway adds. Once with nginx, which
answers with a constant: that is the gateway alone. Once with berth and the tiny model of `benchmarks.serving.tiny`:
that is what a caller sees, and has in it what the headers that the gateway adds cost in berth. Then 64 connections ask
nginx through the gateway as fast as they can. For scale, nginx is asked through the proxies of `bare_proxies` too.

The server and wrk share one core. The gateway has one thread, wherever the kernel puts it, and in the last part the
other core to itself. So a direct request never leaves its core, and one through the gateway changes cores up to four
times: that is part of what is added here. Where caller, gateway and server all have cores of their own, a direct
request changes cores twice itself; that could not be measured on two cores.

One connection leaves the cores idle between any two steps of a request. A virtual machine's core halts then, and its
host takes some 50 us to wake it, each time that a request passes to a process on another core. So everything is
measured twice: as it is (`asleep`), and while the kernel is asked to keep cores from halting (`awake`), as machines
for low latency are set up: what is left is the gateway's. A core that polls is woken without an interrupt, which no
machine does that sleeps deeper. Only root may ask for that; docs/decisions/0063 tells more. Called by `benchmarks.run`;
`python -m benchmarks.deploy.gateway` prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.deploy import bare_proxies
from benchmarks.nginx import ENDLESS, configuration
from benchmarks.serving import tiny
from dockyard.engines.sockets import Activation, Listener
from dockyard.gateway.base import GatewaySettings
from dockyard.gateway.envoy import EnvoyGateway
from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, UnixAddress

GATEWAY_CORE, OTHERS_CORE = 0, 1
CONNECTIONS = 64
DEADLINE_S = 20.0
LATENCY = Path("/dev/cpu_dma_latency")
NGINX = """
  server {{
    listen unix:{socket} backlog=4096;
    listen 127.0.0.1:{port} backlog=4096;
    default_type application/json;
    location / {{ return 200 '{{"model_name":"model","outputs":[]}}'; }}
  }}
"""


@dataclass(frozen=True)
class Turns:
    """One server, asked in turns: directly, through the gateway, and through what else was measured for scale."""

    runs: Mapping[str, list[tiny.Run]]

    def all(self) -> list[tiny.Run]:
        """Every run."""
        return [run for runs in self.runs.values() for run in runs]

    def told(self) -> dict[str, object]:
        """Every run, and what each way adds to the direct one, in microseconds."""
        medians = {way: statistics.median(run.p50_ms for run in runs) for way, runs in self.runs.items()}
        added = {way: round(1000 * (median - medians["direct"]), 1) for way, median in medians.items()}
        return {
            **{way: [asdict(run) for run in runs] for way, runs in self.runs.items()},
            "added_p50_us": added["through"],
            "for_scale_added_p50_us": {way: each for way, each in added.items() if way not in {"direct", "through"}},
        }


def measure(*, runs: int = 5, seconds: int = 3) -> dict[str, object]:
    """Every run, and the medians."""
    return asyncio.run(_measure(runs, seconds))


async def _measure(runs: int, seconds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="dy-") as name:
        folder = Path(name)
        script = folder / "infer.lua"
        script.write_text(tiny.LUA)
        async with _berth(folder) as (direct, socket), _gateway(folder, socket) as through:
            berth = await _both({"direct": direct, "through": through}, runs, seconds, script)
        with _nginx(folder) as (direct, socket):
            async with _gateway(folder, socket) as through:
                ways = {"direct": direct, "through": through}
                with bare_proxies.bare_envoy(folder, socket) as envoy, bare_proxies.nginx(folder, socket) as proxy:
                    others = {"bare_envoy": envoy, "nginx_as_proxy": proxy}
                    nginx = await _both(ways | others, runs, seconds, script)
                _pin(through.process)
                most = await _several(through, runs, seconds, script)
                resident = through.resident_mib()
    return {
        "benchmark": "deploy/gateway",
        "nginx": {state: turns.told() for state, turns in nginx.items()},
        "berth": {state: turns.told() for state, turns in berth.items()},
        "most": [asdict(run) for run in most],
        "connections_of_most": CONNECTIONS,
        "errors": sum(run.errors for run in (*_runs(nginx), *_runs(berth), *most)),
        "median_requests_per_second": statistics.median(run.requests_per_second for run in most),
        "median_requests_per_cpu_second": statistics.median(run.requests_per_cpu_second for run in most),
        "resident_mib": resident,
    }


def _runs(found: Mapping[str, Turns]) -> Iterator[tiny.Run]:
    for turns in found.values():
        yield from turns.all()


async def _both(ways: Mapping[str, tiny.Served], runs: int, seconds: int, script: Path) -> Mapping[str, Turns]:
    asleep = await _in_turns(ways, runs, seconds, script)
    with _awake():
        return {"asleep": asleep, "awake": await _in_turns(ways, runs, seconds, script)}


@contextmanager
def _awake() -> Iterator[None]:
    """No core halts in the block: the kernel takes this as a wish for no latency, for as long as the file is open."""
    with LATENCY.open("wb", buffering=0) as wish:
        wish.write(struct.pack("=i", 0))
        yield


async def _in_turns(ways: Mapping[str, tiny.Served], runs: int, seconds: int, script: Path) -> Turns:
    found: dict[str, list[tiny.Run]] = {way: [] for way in ways}
    for server in ways.values():
        await asyncio.to_thread(tiny.drive, server, OTHERS_CORE, 1, 1, script)  # warm
    for _ in range(runs):
        for way, server in ways.items():
            found[way].append(await asyncio.to_thread(tiny.drive, server, OTHERS_CORE, seconds, 1, script))
    return Turns(found)


async def _several(server: tiny.Served, runs: int, seconds: int, script: Path) -> list[tiny.Run]:
    await asyncio.to_thread(tiny.drive, server, OTHERS_CORE, 1, CONNECTIONS, script)  # warm
    return [await asyncio.to_thread(tiny.drive, server, OTHERS_CORE, seconds, CONNECTIONS, script) for _ in range(runs)]


def _pin(process: int) -> None:
    for task in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(task.name), {GATEWAY_CORE})


@asynccontextmanager
async def _gateway(folder: Path, socket: Path) -> AsyncIterator[tiny.Served]:
    """The gateway as it is shipped, access log and all, with one thread on its core."""
    settings = GatewaySettings(folder / "gateway", port=tiny.free_port(), workers=1)
    gateway = await EnvoyGateway.start(settings)
    try:
        endpoint = Endpoint("replica", UnixAddress(str(socket)))
        await gateway.apply(Snapshot(services=(Service(name="model", weights={1: 1}, endpoints={1: (endpoint,)}),)))
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
def _nginx(folder: Path) -> Iterator[tuple[tiny.Served, Path]]:
    """A server that is much faster than the gateway."""
    socket, port, file = folder / "nginx.sock", tiny.free_port(), folder / "nginx.conf"
    http = ENDLESS + NGINX.format(socket=socket, port=port)
    file.write_text(configuration(folder, bare_proxies.ALONE, http))
    with _pinned(["nginx", "-e", "stderr", "-p", str(folder), "-c", str(file)], {}) as process:
        yield tiny.Served(f"http://127.0.0.1:{port}", process.pid), socket


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
