"""One server with one model from start to stop: how soon it answers rightly, what it holds, what it does under load.

Called by `compare`, once for each peer, model and pass. Whatever cannot be measured comes back as a reason.
"""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import processes
from benchmarks.serving.asking import Ask
from benchmarks.serving.environments import NotRun, last_line
from benchmarks.serving.generators import Load, Target, ask_once, drive, generator, get_seconds
from benchmarks.serving.models import Model
from benchmarks.serving.peers import ROOT, Peer, Site

START_DEADLINE_S = 60.0
SETTLE_S = 1.0
ROUNDS = 3
QUIET_DEADLINE_S = 15.0
QUIET_STEP_S = 0.25
QUIET_CORES = 0.6
PING_EVERY_S = 0.025


@dataclass(frozen=True)
class Plan:
    """How to measure: which protocols, how many at once, for how long, on which cores."""

    protocols: Sequence[str]
    connections: Sequence[int]
    seconds: float
    warm_seconds: float
    server_core: int
    client_core: int


@dataclass
class Found:
    """Everything that was measured, and why the rest was not."""

    starts: list[dict[str, Any]] = field(default_factory=list)
    loads: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[dict[str, Any]] = field(default_factory=list)

    def miss(self, peer: Peer, model: Model, protocol: str, reason: str) -> None:
        """Remember a reason."""
        self.not_run.append({"peer": peer.name, "model": model.name, "protocol": protocol, "reason": reason})


def measure(peer: Peer, python: Path, model: Model, plan: Plan, logs: Path) -> Found:
    """The peer with the model, in one server, or in one for each protocol where the peer needs that."""
    found = Found()
    spoken = [ask for ask in peer.asks(model) if ask.protocol in plan.protocols]
    for asks in [[ask] for ask in spoken] if peer.per_protocol else [spoken]:
        if asks:
            _measure_server(peer, python, model, asks, plan, logs, found)
    return found


def _measure_server(
    peer: Peer, python: Path, model: Model, asks: Sequence[Ask], plan: Plan, logs: Path, found: Found
) -> None:
    log = logs / f"{peer.name}-{model.name}{'-' + asks[0].protocol if peer.per_protocol else ''}.log"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = _free_port()
        grpc_port = port if peer.one_port else _free_port()
        site = Site(python, Path(folder), port, grpc_port, model, asks[0].protocol)
        first = asks[0] if peer.per_protocol else peer.asks(model)[0]
        try:
            with processes.running(peer.command(site), _environment(peer, site), plan.server_core, log) as tree:
                start: dict[str, Any] = {"peer": peer.name, "model": model.name}
                start["protocol"] = site.protocol if peer.per_protocol else ""
                start["start_s"] = round(_until_right(first, tree, site, log), 3)
                time.sleep(SETTLE_S)
                start |= _at_rest(tree)
                for ask in asks:
                    _measure_ask(peer, ask, tree, site, plan, found)
                start |= {"loaded_mib": tree.resident_mib(), "processes": len(tree.processes())}
                found.starts.append(start)
        except NotRun as reason:
            for ask in asks:
                found.miss(peer, model, ask.protocol, str(reason))


def _measure_ask(peer: Peer, ask: Ask, tree: processes.Tree, site: Site, plan: Plan, found: Found) -> None:
    """Check the answer, then every number of connections, then check again."""
    try:
        _check(ask, site)
        slow = site.model.seconds > 0
        _drive(ask, site, plan.connections[0 if slow else -1], plan.warm_seconds, plan.client_core)
        for connections in plan.connections:
            with _pinging(peer.health, site.port, active=slow) as pings:
                row = _driven(ask, tree, site, plan, connections)
            row |= {"peer": peer.name, "model": site.model.name, "protocol": ask.protocol, "form": ask.form}
            row["generator"] = generator(ask)
            found.loads.append(row | _health(pings))
        _check(ask, site)
    except (NotRun, RuntimeError, OSError) as reason:
        found.miss(peer, site.model, ask.protocol, str(reason))
    if tree.root.poll() is not None:
        raise NotRun(f"the server ended with code {tree.root.returncode} under load")


def _driven(ask: Ask, tree: processes.Tree, site: Site, plan: Plan, connections: int) -> dict[str, Any]:
    _until_quiet(tree)
    began = time.monotonic()
    server, everyone, own = tree.cpu_seconds(), processes.all_cpu_seconds(), processes.own_cpu_seconds()
    enough = ROUNDS * connections * site.model.seconds  # on one core, each asker gets some answers
    load = _drive(ask, site, connections, max(plan.seconds, enough), plan.client_core)
    spent = tree.cpu_seconds() - server
    own = processes.own_cpu_seconds() - own
    others = processes.all_cpu_seconds() - everyone - own - spent
    took = time.monotonic() - began
    return {
        "connections": connections,
        "requests_per_second": load.requests_per_second,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "max_ms": load.max_ms,
        "errors": load.errors,
        "requests": load.requests,
        "cpu_s_per_1000": round(spent / load.requests * 1000, 4) if load.requests else None,
        "client_cores": round(own / took, 2),
        "other_cores": round(max(0.0, others / took), 2),
    }


def _until_quiet(tree: processes.Tree) -> None:
    """Wait while the server still works on what the last load left behind, for its askers have gone."""
    deadline = time.monotonic() + QUIET_DEADLINE_S
    while time.monotonic() < deadline:
        busy = tree.cpu_seconds()
        time.sleep(QUIET_STEP_S)
        if tree.cpu_seconds() - busy < QUIET_STEP_S * QUIET_CORES:
            return


def _drive(ask: Ask, site: Site, connections: int, seconds: float, core: int) -> Load:
    return drive(ask, Target(_port(ask, site), connections, seconds, core, site.folder))


def _port(ask: Ask, site: Site) -> int:
    return site.grpc_port if ask.protocol == "grpc" else site.port


def _check(ask: Ask, site: Site) -> None:
    """NotRun when the answer is not the model's."""
    answer = ask_once(ask, _port(ask, site), site.folder)
    if answer.status not in {0, 200}:
        raise NotRun(f"answers {answer.status} to {ask.form}: {answer.body[:200].decode(errors='replace')}")
    try:
        given = ask.read(answer)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise NotRun(f"answer to {ask.form} cannot be read ({error!r}): {answer.body[:200]!r}") from error
    wanted = site.model.answer.ravel()
    if given.size != wanted.size or not np.allclose(given.ravel(), wanted, rtol=1e-4, atol=1e-6):
        raise NotRun(f"wrong answer to {ask.form}: {given.ravel()[:10].tolist()}, expected {wanted[:10].tolist()}")


def _until_right(ask: Ask, tree: processes.Tree, site: Site, log: Path) -> float:
    """Seconds from the start of the process to the first right answer."""
    began, last = time.monotonic(), "nothing"
    for _left in processes.remaining(began + START_DEADLINE_S):
        if tree.root.poll() is not None:
            raise NotRun(f"did not start: ended with code {tree.root.returncode}: {last_line(log)}")
        try:
            _check(ask, site)
        except (OSError, RuntimeError, http.client.HTTPException, NotRun) as error:
            last = str(error)
            continue
        return time.monotonic() - began
    raise NotRun(f"gave no right answer within {START_DEADLINE_S:.0f} s; at last: {last}")


def _at_rest(tree: processes.Tree) -> dict[str, Any]:
    """Memory and processor time while nobody asks."""
    busy, began = tree.cpu_seconds(), time.monotonic()
    time.sleep(SETTLE_S)
    percent = (tree.cpu_seconds() - busy) / (time.monotonic() - began) * 100
    return {"idle_mib": tree.resident_mib(), "idle_cpu_percent": round(percent, 1)}


@contextmanager
def _pinging(path: str, port: int, *, active: bool) -> Iterator[list[float | None]]:
    """Asks for the server's health all along, if wanted; the seconds of each answer, None for a bad one."""
    pings: list[float | None] = []
    done = threading.Event()

    def ping() -> None:
        while not done.wait(PING_EVERY_S):
            pings.append(get_seconds(path, port))

    thread = threading.Thread(target=ping, daemon=True)
    if active:
        thread.start()
    try:
        yield pings
    finally:
        done.set()
        if active:
            thread.join(60)


def _health(pings: Sequence[float | None]) -> dict[str, Any]:
    good = [seconds * 1000 for seconds in pings if seconds is not None]
    if not pings:
        return {}
    p99 = statistics.quantiles(good, n=100, method="inclusive")[98] if len(good) > 1 else max(good, default=None)
    return {"health_p99_ms": None if p99 is None else round(p99, 2), "health_failed": len(pings) - len(good)}


def _environment(peer: Peer, site: Site) -> dict[str, str]:
    own = ("BERTH_", "BENCH_", "PYTHONPATH", "VIRTUAL_ENV")
    bare = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    return {
        **bare,
        "PATH": f"{site.python.parent}{os.pathsep}{bare.get('PATH', os.defpath)}{os.pathsep}/usr/sbin",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "BENCH_MODEL": site.model.name,
        "BENCH_FOLDER": str(site.model.folder),
        "BENCH_PROTOCOL": site.protocol,
        "BENCH_PORT": str(site.port),
        "BENCH_GRPC_PORT": str(site.grpc_port),
        **peer.environment(site),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
