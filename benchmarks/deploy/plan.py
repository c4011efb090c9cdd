"""How long one plan takes, at rest and in the middle of rollouts, and how that grows with the number of deployments.

`python -m benchmarks.deploy.plan` prints one JSON object. The planner is pure, so nothing runs: the worlds are values,
ten replicas for each deployment, and a plan of each is timed in one process.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable

from dockyard.spec.deployment import Probes, Strategy, StrategyKind
from dockyard.yard.plan import plan
from dockyard.yard.state import (
    DeploymentState,
    Phase,
    Replica,
    Revision,
    RevisionState,
    Rollout,
    RolloutPhase,
    World,
)

REPLICAS = 10
SIZES = (100, 500, 1000, 2000, 4000)
NOW = 10_000.0
MEMORY = 256 << 20


def at_rest(number: int) -> DeploymentState:
    """All replicas of the only revision serve."""
    name = f"model-{number}"
    revision = Revision(1, RevisionState.ACTIVE, MEMORY, Strategy(), Probes(), 0.0)
    ready = tuple(_replica(name, 1, place, Phase.READY) for place in range(REPLICAS))
    return DeploymentState(name, REPLICAS, 1, {1: revision}, ready)


def in_a_rollout(number: int) -> DeploymentState:
    """Half of the replicas are new; which strategy, and what is drained, frozen, starting or crashed, changes about."""
    name, strategy = f"model-{number}", Strategy(kind=list(StrategyKind)[number % 2], max_surge=2)
    revisions = {
        each: Revision(each, state, MEMORY, strategy, Probes(), 0.0)
        for each, state in ((1, RevisionState.KEPT), (2, RevisionState.ACTIVE), (3, RevisionState.PENDING))
    }
    half = REPLICAS // 2
    old = [Phase.READY] * (half - 2) + [(Phase.DRAINING, Phase.FREEZING, Phase.FROZEN)[number % 3], Phase.READY]
    new = [Phase.READY] * (half - 2) + [Phase.STARTING, (Phase.CRASHED, Phase.STARTING)[number % 2]]
    kept = [Phase.FROZEN]
    replicas = tuple(
        _replica(name, revision, place, phase)
        for revision, phases in ((1, kept), (2, old), (3, new))
        for place, phase in enumerate(phases)
    )
    going = RolloutPhase.ABORTING if number % 5 == 0 else RolloutPhase.STARTING
    rollout = Rollout(number, 2, 3, going, NOW - 30, NOW - 30)
    return DeploymentState(name, half, 2, revisions, replicas, rollout)


def measure(*, runs: int) -> dict[str, object]:
    """Milliseconds of every run and their medians, by number of deployments, and how the cost of one of them grows."""
    found: dict[str, object] = {"replicas_per_deployment": REPLICAS, "runs": runs}
    for name, make in (("rest", at_rest), ("rollouts", in_a_rollout)):
        every = {str(size): [round(each, 2) for each in _times(make, size, runs)] for size in SIZES}
        medians = {size: round(statistics.median(times), 2) for size, times in every.items()}
        growth = (medians[str(SIZES[-1])] / SIZES[-1]) / (medians[str(SIZES[0])] / SIZES[0])
        found[name] = {"every_ms": every, "median_ms": medians, "growth": round(growth, 2)}
    return found


def _times(make: Callable[[int], DeploymentState], size: int, runs: int) -> list[float]:
    world = World(tuple(make(number) for number in range(size)), size * REPLICAS * MEMORY * 4)
    plan(world, NOW)
    times = []
    for _ in range(runs):
        gc.collect()
        begun = time.perf_counter()
        plan(world, NOW)
        times.append((time.perf_counter() - begun) * 1000)
    return times


def _replica(name: str, revision: int, place: int, phase: Phase) -> Replica:
    serves = phase is Phase.READY
    crashes = 1 if phase is Phase.CRASHED else 0
    return Replica(f"{name}-{revision}-{place}", revision, phase, NOW - 20, crashes, serves, 2 * serves, NOW - 20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    print(json.dumps(measure(runs=parser.parse_args().runs), indent=2))
