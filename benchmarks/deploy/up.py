"""How long `dockyard up` takes, from the command until the yard answers: in a new home, and beside what it adopts.

`python -m benchmarks.deploy.up --runs 10` prints one JSON object. The interpreter's start and all imports count. For
those who adopt, the yard before was killed; it is over once the yard says that both replicas are ready.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.deploy.rollouts import NAME, wanted
from dockyard.spec.deployment import StrategyKind
from dockyard.spec.home import Home
from tests.support.projects import build_in, write_adder
from tests.support.yards import running_yard, until

NOWHERE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
"""runc alone: Docker's time to answer is not ours."""


def measure(runs: int) -> dict[str, Any]:
    """Seconds of every run and their medians."""
    folder = Path(tempfile.mkdtemp(prefix="dyb-"))
    try:
        home = Home(folder)
        build_in(write_adder(folder / "project"), home, "adder:1")
        every = {"new": [_new(home) for _ in range(runs)], "adopting": _adopting(home, runs)}
        return {"every_s": every, "median_s": {name: statistics.median(times) for name, times in every.items()}}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new(home: Home) -> float:
    begun = time.perf_counter()
    with running_yard(home, NOWHERE):
        return time.perf_counter() - begun


def _adopting(home: Home, runs: int) -> list[float]:
    times = []
    with running_yard(home, NOWHERE) as yard:
        assert yard.deploy(wanted("0", StrategyKind.ROLLING)).succeeded
        for _ in range(runs):
            yard.kill()
            begun = time.perf_counter()
            yard.start()
            until(lambda: yard.status(NAME).ready == 2, "the next yard does not adopt the replicas")
            times.append(time.perf_counter() - begun)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="starts of each kind; default: 10")
    print(json.dumps(measure(parser.parse_args().runs), indent=1))


if __name__ == "__main__":
    main()
