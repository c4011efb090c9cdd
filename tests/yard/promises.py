"""What holds for every plan, whatever the world looks like: the planner's promises, checked without its code."""

from __future__ import annotations

from collections.abc import Callable

from dockyard.yard.state import (
    DeploymentState,
    Freeze,
    Move,
    Phase,
    Plan,
    Replica,
    Restart,
    Rollout,
    RolloutPhase,
    Start,
    Stop,
    Thaw,
    Traffic,
    World,
)

Judge = Callable[[World, Plan, float], None]
HOLDS_MEMORY = {Phase.STARTING, Phase.READY, Phase.DRAINING, Phase.FREEZING, Phase.FROZEN, Phase.CRASHED}
RUNS = HOLDS_MEMORY - {Phase.CRASHED}


def judge(world: World, plan: Plan, now: float) -> None:
    """AssertionError for the first promise that this plan breaks."""
    for deployment in world.deployments:
        _judge_traffic(deployment, plan)
        _judge_stops(deployment, plan, now)
    _judge_memory(world, plan)
    about = [step.replica for step in plan.steps if isinstance(step, (Restart, Move, Stop, Freeze, Thaw))]
    assert len(about) == len(set(about)), f"two steps about one replica: {plan.steps}"
    assert plan.wake is None or plan.wake > now, "a plan that wakes at once"


def under_way(deployment: DeploymentState) -> Rollout | None:
    """The rollout that is not over."""
    rollout = deployment.rollout
    return None if rollout is None or rollout.phase in (RolloutPhase.DONE, RolloutPhase.FAILED) else rollout


def endpoints_of(traffic: Traffic) -> set[str]:
    """All that have traffic, those of a preview too."""
    return {each for replicas in traffic.endpoints.values() for each in replicas}


def serving(traffic: Traffic) -> set[str]:
    """All that have a share of the traffic."""
    return {each for number, weight in traffic.weights.items() if weight for each in traffic.endpoints[number]}


def _judge_traffic(deployment: DeploymentState, plan: Plan) -> None:
    traffic = plan.traffic[deployment.name]
    nobody = deployment.active is None or deployment.deleted
    assert sum(traffic.weights.values()) == 100 or (nobody and not any(traffic.weights.values())), traffic
    assert set(traffic.weights) == set(traffic.endpoints), traffic
    replicas = {each.id: each for each in deployment.replicas}
    leaving = {step.replica for step in plan.steps if isinstance(step, (Stop, Freeze)) or _moves_out(step)}
    for revision, chosen in traffic.endpoints.items():
        for name in chosen:
            assert name not in leaving, f"{name} has traffic and leaves"
            assert replicas[name].revision == revision, f"{name} is an endpoint of revision {revision}"
            if replicas[name].phase is not Phase.READY:
                _judge_waiting(deployment, replicas[name], serving(traffic))


def _moves_out(step: object) -> bool:
    return isinstance(step, Move) and step.phase in (Phase.DRAINING, Phase.FREEZING)


def _judge_waiting(deployment: DeploymentState, replica: Replica, serving: set[str]) -> None:
    """Requests may wait at the socket of a replica that is not ready in two cases, and never while one is ready."""
    assert replica.phase in (Phase.CREATED, Phase.STARTING, Phase.CRASHED), f"traffic to {replica}"
    ready = [each.id for each in deployment.replicas if each.id in serving and each.phase is Phase.READY]
    assert not ready, f"requests wait at {replica.id} although {ready} are ready"
    rollout = under_way(deployment)
    swapped_in = rollout is not None and rollout.holding and replica.revision == rollout.target
    had_traffic = replica.revision == deployment.active or replica.routed
    assert had_traffic or swapped_in, f"traffic to {replica}, which never was ready"


def _judge_stops(deployment: DeploymentState, plan: Plan, now: float) -> None:
    """A replica is stopped once it is out of the accepted traffic and idle, or its deadline is over, or it is dead."""
    replicas = {each.id: each for each in deployment.replicas}
    for step in plan.steps:
        if isinstance(step, Stop) and step.deployment == deployment.name:
            replica = replicas[step.replica]
            limit = replica.since + deployment.revisions[replica.revision].drain_s
            assert not replica.routed, f"{replica} is stopped while it is routed"
            assert replica.phase not in (Phase.READY, Phase.STARTING, Phase.FREEZING), f"{replica} is not drained"
            idle = replica.in_flight == 0 or replica.phase not in RUNS
            assert idle or now >= limit, f"{replica} is stopped with requests in flight"


def _judge_memory(world: World, plan: Plan) -> None:
    """No start spends memory that is not there."""
    sizes = {each.id: d.revisions[each.revision].memory for d in world.deployments for each in d.replicas}
    new = {(d.name, number): each.memory for d in world.deployments for number, each in d.revisions.items()}
    phases = {each.id: each.phase for d in world.deployments for each in d.replicas}
    held = sum(sizes[name] for name, phase in phases.items() if phase in HOLDS_MEMORY)
    started = [new[each.deployment, each.revision] for each in plan.steps if isinstance(each, Start)]
    restarts = [each.replica for each in plan.steps if isinstance(each, Restart)]
    started += [sizes[each] for each in restarts if phases[each] is Phase.CREATED]
    assert not started or held + sum(started) <= world.memory, f"{held} held, {started} started, {world.memory} there"
