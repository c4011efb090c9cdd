"""kill -9 of each part, again and again, under load: requests that failed, and how long it took to come back.

`python -m benchmarks.deploy.kills --times 20` prints one JSON object. Killed are the yard (and started again), Envoy, a
replica, and the Docker Engine's daemon: while a deployment runs on runc, and while one runs on Docker itself, with
live-restore, where each time is waited until the yard answers for its replicas again.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.deploy.rollouts import BODY, NAME, wanted
from benchmarks.deploy.wrk import SATURATING, Wrk
from dockyard.spec.deployment import StrategyKind
from dockyard.spec.home import Home
from tests.support.dockerd import OwnEngine, own_engine
from tests.support.projects import build_in, write_adder
from tests.support.yards import RunningYard, running_yard, until

PAUSE_S = 1.0
Kill = Callable[[RunningYard], float]


def measure(times: int) -> dict[str, Any]:
    """So many kills of each part, on runc; of the daemon on Docker too."""
    folder = Path(tempfile.mkdtemp(prefix="dyb-"))
    try:
        home = Home(folder)
        build_in(write_adder(folder / "project"), home, "adder:1")
        with own_engine() as docker, _yard(home, docker) as yard:
            assert yard.deploy(wanted("0", StrategyKind.ROLLING)).succeeded
            parts: dict[str, Kill] = {"yard": _kill_yard, "replica": _kill_replica, "envoy": _kill_envoy}
            parts["daemon"] = lambda _: _kill_daemon(docker)
            found = {name: _kills(yard, kill, times) for name, kill in parts.items()}
        with own_engine("--live-restore") as docker, _yard(home, docker, "docker") as yard:
            assert yard.deploy(wanted("0", StrategyKind.ROLLING)).succeeded
            return found | {"daemon_on_docker": _kills(yard, lambda _: _kill_daemon_below(yard, docker), times)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _yard(home: Home, docker: OwnEngine, engine: str = "runc") -> AbstractContextManager[RunningYard]:
    return running_yard(home, {"DOCKER_HOST": f"unix://{docker.socket}"}, "--engine", engine)


def _kills(yard: RunningYard, kill: Kill, times: int) -> dict[str, float]:
    """`failed`: of all requests; `failed_a_kill` is to be held against the connections that were open."""
    load = Wrk(f"http://127.0.0.1:{yard.port}/models/{NAME}/predict", BODY, connections=SATURATING.kept)
    back = []
    try:
        for _ in range(times):
            time.sleep(PAUSE_S)
            back.append(kill(yard))
        time.sleep(PAUSE_S)
    finally:
        seen = load.stop()
    return {
        "kills": times,
        "connections": SATURATING.kept,
        "requests": seen.requests,
        "failed": seen.failed,
        "failed_a_kill": seen.failed / times,
        "median_back_s": statistics.median(back),
        "longest_back_s": max(back),
    }


def _kill_yard(yard: RunningYard) -> float:
    yard.kill()
    begun = time.perf_counter()
    yard.start()
    until(lambda: yard.status(NAME).ready == 2, "the next yard does not adopt the replicas")
    return time.perf_counter() - begun


def _kill_replica(yard: RunningYard) -> float:
    """Each time one that never crashed before: the same one again and again would be started ever later."""
    assert yard.deploy(wanted(secrets.token_hex(4), StrategyKind.ROLLING)).succeeded
    status = yard.status(NAME)
    victim = next(each for each in status.replicas if each.revision == status.active)
    begun = time.perf_counter()
    os.kill(yard.pid_of(victim.id, victim.engine), signal.SIGKILL)
    until(lambda: any(each.phase != "ready" for each in yard.status(NAME).replicas), "nobody sees that it is gone")
    until(lambda: yard.status(NAME).ready == 2, "the replica does not come back", 60)
    return time.perf_counter() - begun


def _kill_envoy(yard: RunningYard) -> float:
    record = msgspec.json.decode((yard.home.yard / "gateway" / "envoy.json").read_bytes())
    begun = time.perf_counter()
    os.kill(record["pid"], signal.SIGKILL)
    until(lambda: _answers(yard), "the gateway does not come back")
    return time.perf_counter() - begun


def _kill_daemon(docker: OwnEngine) -> float:
    docker.stop(signal.SIGKILL)
    begun = time.perf_counter()
    docker.start()
    return time.perf_counter() - begun


def _kill_daemon_below(yard: RunningYard, docker: OwnEngine) -> float:
    """Until the daemon answers and every replica is the one that it was, by its process."""
    before = _processes(yard)
    seconds = _kill_daemon(docker)
    until(lambda: yard.status(NAME).ready == 2, "the replicas are not known again")
    assert _processes(yard) == before, "a replica was started anew"
    return seconds


def _processes(yard: RunningYard) -> dict[str, int]:
    return {each.id: yard.pid_of(each.id, each.engine) for each in yard.status(NAME).replicas}


def _answers(yard: RunningYard) -> bool:
    try:
        return yard.ask(f"/models/{NAME}/predict", json.loads(BODY), deadline=1) == (200, 3.5)
    except (OSError, http.client.HTTPException):
        return False


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="kills of each part; default: 20")
    print(json.dumps(measure(parser.parse_args().times), indent=1))


if __name__ == "__main__":
    main()
