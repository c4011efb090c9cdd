"""A yard without containers, on a virtual clock: carries plans out on a world of values, with every delay that real ones
have. Starts take time and fail, the gateway accepts late, requests finish late, steps are lost when the yard restarts.

The planner's tests drive it. `judge` is what holds for every plan, whatever the world looks like.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from dockyard.spec.deployment import Probes, Strategy
from dockyard.yard.plan import plan
from dockyard.yard.state import (
    Advance,
    Create,
    DeploymentState,
    Forget,
    Freeze,
    Mark,
    Move,
    Phase,
    Plan,
    Replica,
    Restart,
    Revision,
    RevisionState,
    Rollout,
    RolloutPhase,
    Start,
    Step,
    Stop,
    Thaw,
    World,
)

GIB = 1 << 30
STABLE_S = 60.0
HOLDS_MEMORY = {Phase.STARTING, Phase.READY, Phase.DRAINING, Phase.FREEZING, Phase.FROZEN, Phase.CRASHED}
RUNS = HOLDS_MEMORY - {Phase.CRASHED}
OVER = (RolloutPhase.DONE, RolloutPhase.FAILED)


@dataclass
class Delays:
    """Seconds."""

    start: float = 2.0
    stop: float = 0.5
    freeze: float = 0.02
    accept: float = 0.05
    request: float = 0.2


@dataclass
class Fates:
    """What goes wrong. `broken`: revisions that never start. `flaky`: so many of the next starts fail."""

    broken: set[tuple[str, int]] = field(default_factory=set)
    flaky: int = 0


class Yard:
    """The simulated yard. Its world is only changed by its own events and by what the tests do to it."""

    def __init__(self, memory: int = 64 * GIB, delays: Delays | None = None) -> None:
        self.now = 1000.0
        self.memory = memory
        self.delays = delays or Delays()
        self.fates = Fates()
        self.deployments: dict[str, DeploymentState] = {}
        self.plans: list[Plan] = []
        self.told: list[str] = []
        self.judge: Callable[[World, Plan], None] = judge
        self._queue: list[tuple[float, int, int, Callable[[], None]]] = []
        self._number = itertools.count(1)
        self._life = 0
        self._busy: set[str] = set()
        self._sent: frozenset[str] = frozenset()
        self._accepts_at = 0.0

    # What a test says.

    def deploy(self, name: str = "shop", *, replicas: int | None = None, memory: int = GIB, **strategy: object) -> int:
        """A new revision and its rollout; returns the revision's number."""
        old = self.deployments.get(name)
        number = 1 + max(old.revisions, default=0) if old else 1
        revision = Revision(
            number, RevisionState.PENDING, memory, Strategy(**strategy), Probes(), self.now, drain_s=30.0
        )
        self.deployments[name] = DeploymentState(
            name=name,
            wanted=replicas if replicas is not None else (old.wanted if old else 1),
            active=old.active if old else None,
            revisions={**(old.revisions if old else {}), number: revision},
            replicas=old.replicas if old else (),
        )
        self.roll_to(number, name)
        return number

    def roll_to(self, target: int, name: str = "shop") -> None:
        """A rollout, forward or back."""
        source = self.deployments[name].active
        rollout = Rollout(next(self._number), source, target, RolloutPhase.STARTING, self.now, self.now)
        self._change(name, rollout=rollout)

    def scale(self, wanted: int, name: str = "shop") -> None:
        self._change(name, wanted=wanted)

    def delete(self, name: str = "shop") -> None:
        self._change(name, deleted=True)

    def promote(self, name: str = "shop") -> None:
        self._change_rollout(name, promoted=True)

    def abort(self, why: str = "somebody said so", name: str = "shop") -> None:
        self._change_rollout(name, aborted=why)

    def crash(self, replica: str) -> None:
        """Its container ends, or hangs and is killed; what was in flight in it is lost."""
        old = self.replica(replica)
        self._busy.discard(replica)
        stable = old.phase is Phase.READY and self.now - old.since >= STABLE_S
        self._set(replica, phase=Phase.CRASHED, crashes=1 if stable else old.crashes + 1, in_flight=0)

    def restart_yard(self) -> None:
        """The yard is killed and starts again: orders under way are forgotten, starts are adopted."""
        self._life += 1
        self._busy.clear()
        self._sent = frozenset({"nobody knows"})
        for each in self.replicas():
            if each.phase is Phase.STARTING:
                self._launch(each.id)
            if not each.routed and each.in_flight:
                self._after(self.delays.request, lambda id=each.id: self._finish_requests(id))

    # What a test asks.

    @property
    def world(self) -> World:
        return World(tuple(self.deployments.values()), self.memory)

    def replicas(self, name: str | None = None, revision: int | None = None) -> list[Replica]:
        chosen = [self.deployments[name]] if name else list(self.deployments.values())
        found = [each for deployment in chosen for each in deployment.replicas]
        return [each for each in found if revision in (None, each.revision)]

    def replica(self, id: str) -> Replica:
        return next(each for each in self.replicas() if each.id == id)

    def phases(self, revision: int, name: str = "shop") -> list[str]:
        return sorted(str(each.phase) for each in self.replicas(name, revision))

    def state(self, revision: int, name: str = "shop") -> RevisionState:
        return self.deployments[name].revisions[revision].state

    def weights(self, name: str = "shop") -> dict[int, int]:
        return dict(self.plans[-1].traffic[name].weights)

    def endpoints(self, name: str = "shop") -> set[str]:
        return {id for ids in self.plans[-1].traffic[name].endpoints.values() for id in ids}

    # Time.

    def run(self, seconds: float) -> None:
        """Everything that happens in so many seconds, in its order."""
        end = self.now + seconds
        self.settle()
        while (moment := self._next()) is not None and moment <= end:
            self.now = max(self.now, moment)
            self._happen()
            self.settle()
        self.now = end

    def run_until(self, met: Callable[[], bool], limit: float = 600.0) -> float:
        """Run until that holds; how long it took. Asserts that it does within `limit` seconds."""
        begin = self.now
        self.settle()
        while not met():
            moment = self._next()
            assert moment is not None, f"nothing will ever happen any more: {self.world}"
            assert moment <= begin + limit, f"not within {limit} s: {self.world}"
            self.now = max(self.now, moment)
            self._happen()
            self.settle()
        return self.now - begin

    def jump(self, seconds: float) -> None:
        """Time passes while the yard sleeps; what was due meanwhile happens all at once."""
        self.now += seconds
        self._happen()
        self.settle()

    def settle(self) -> None:
        """Plan and act until the plan changes nothing any more at this moment."""
        for _ in range(100):
            world = self.world
            self.plans.append(plan(world, self.now))
            self.judge(world, self.plans[-1])
            judge_drains(world, self.plans[-1], self.now)
            if not self._act(self.plans[-1]):
                return
        raise AssertionError(f"plans go round in circles: {self.plans[-2:]}")

    def _next(self) -> float | None:
        times = [self._queue[0][0]] if self._queue else []
        times += [self.plans[-1].wake] if self.plans[-1].wake is not None else []
        return min(times, default=None)

    def _happen(self) -> None:
        while self._queue and self._queue[0][0] <= self.now:
            _, _, life, event = heapq.heappop(self._queue)
            if life in (self._life, -1):
                event()

    def _after(self, seconds: float, event: Callable[[], None], *, survives: bool = False) -> None:
        life = -1 if survives else self._life
        heapq.heappush(self._queue, (self.now + seconds, next(self._number), life, event))

    # Acting.

    def _act(self, plan: Plan) -> bool:
        endpoints = frozenset(
            id for traffic in plan.traffic.values() for ids in traffic.endpoints.values() for id in ids
        )
        if endpoints != self._sent:
            self._sent = endpoints
            self._accepts_at = max(self._accepts_at, self.now + self.delays.accept)
            self._after(self._accepts_at - self.now, lambda: self._accept(endpoints), survives=True)
        return any([self._do(step) for step in plan.steps])

    def _do(self, step: Step) -> bool:
        """Whether it changed anything: a replica about which an order is under way is left to that."""
        if isinstance(step, (Restart, Move, Stop, Freeze, Thaw)) and step.replica in self._busy:
            return False
        match step:
            case Start(deployment, revision) | Create(deployment, revision):
                id = f"{deployment}-{revision}-{next(self._number)}"
                phase = Phase.STARTING if isinstance(step, Start) else Phase.CREATED
                new = Replica(id, revision, phase, self.now)
                self._change(deployment, replicas=(*self.deployments[deployment].replicas, new))
                if phase is Phase.STARTING:
                    self._launch(id)
            case Restart(_, id):
                self._set(id, phase=Phase.STARTING)
                self._launch(id)
            case Move(_, id, phase):
                self._set(id, phase=phase)
            case Stop(_, id):
                self._order(id, self.delays.stop, lambda: self._remove(id))
            case Freeze(_, id):
                self._order(id, self.delays.freeze, lambda: self._set(id, phase=Phase.FROZEN))
            case Thaw(_, id):
                self._order(id, self.delays.freeze, lambda: self._set(id, phase=Phase.READY))
            case Advance():
                self._advance(step)
            case Mark(deployment, revision, state):
                self._mark(deployment, revision, state)
            case Forget(deployment):
                del self.deployments[deployment]
        return True

    def _order(self, replica: str, seconds: float, event: Callable[[], None]) -> None:
        self._busy.add(replica)

        def happen() -> None:
            if replica in self._busy and self._exists(replica):
                self._busy.discard(replica)
                event()

        self._after(seconds, happen)

    def _launch(self, replica: str) -> None:
        begun = self.now

        def launched() -> None:
            if not self._exists(replica):
                return
            now = self.replica(replica)
            if now.phase is not Phase.STARTING or now.since > begun:
                return
            name = next(name for name, each in self.deployments.items() if now in each.replicas)
            self.fates.flaky -= (fails := self.fates.flaky > 0)
            if fails or (name, now.revision) in self.fates.broken:
                self._set(replica, phase=Phase.CRASHED, crashes=now.crashes + 1)
            else:
                self._set(replica, phase=Phase.READY)
                self._serve(replica)

        self._after(self.delays.start, launched)

    def _advance(self, step: Advance) -> None:
        deployment = self.deployments[step.deployment]
        rollout = deployment.rollout
        assert rollout is not None
        self.told.append(f"{step.phase}: {step.why}" if step.why else str(step.phase))
        self._change_rollout(
            step.deployment,
            phase=step.phase,
            since=self.now,
            progress=self.now if step.progressed else rollout.progress,
            holding=rollout.holding or step.holding,
            why=step.why,
        )
        if step.phase is RolloutPhase.DONE:
            self._change(step.deployment, active=rollout.target)
            self._mark(step.deployment, rollout.target, RevisionState.ACTIVE)
        if step.phase is RolloutPhase.FAILED:
            self._mark(step.deployment, rollout.target, RevisionState.FAILED)

    def _mark(self, name: str, revision: int, state: RevisionState) -> None:
        revisions = self.deployments[name].revisions
        changed = replace(revisions[revision], state=state, state_since=self.now)
        self._change(name, revisions={**revisions, revision: changed})

    # The gateway and its requests.

    def _accept(self, endpoints: frozenset[str]) -> None:
        for each in self.replicas():
            if each.routed != (each.id in endpoints):
                self._set(each.id, routed=not each.routed, routed_since=self.now)
                if each.routed:
                    self._after(self.delays.request, lambda id=each.id: self._finish_requests(id))
                else:
                    self._serve(each.id)

    def _serve(self, replica: str) -> None:
        if self.replica(replica).routed:
            self._set(replica, in_flight=3)

    def _finish_requests(self, replica: str) -> None:
        if self._exists(replica) and not self.replica(replica).routed:
            self._set(replica, in_flight=0)

    # The values.

    def _exists(self, replica: str) -> bool:
        return any(each.id == replica for each in self.replicas())

    def _remove(self, replica: str) -> None:
        for name, deployment in self.deployments.items():
            self._change(name, replicas=tuple(each for each in deployment.replicas if each.id != replica))

    def _set(self, replica: str, **changes: object) -> None:
        if "phase" in changes:
            changes["since"] = self.now
        for name, deployment in self.deployments.items():
            self._change(
                name,
                replicas=tuple(
                    replace(each, **changes) if each.id == replica else each for each in deployment.replicas
                ),
            )

    def _change(self, name: str, **changes: object) -> None:
        self.deployments[name] = replace(self.deployments[name], **changes)

    def _change_rollout(self, name: str, **changes: object) -> None:
        rollout = self.deployments[name].rollout
        assert rollout is not None
        self._change(name, rollout=replace(rollout, **changes))


def under_way(deployment: DeploymentState) -> Rollout | None:
    """The rollout that is not over."""
    rollout = deployment.rollout
    return None if rollout is None or rollout.phase in OVER else rollout


def judge(world: World, plan: Plan) -> None:
    """What holds for every plan."""
    for deployment in world.deployments:
        _judge_traffic(deployment, plan)
        _judge_stops(deployment, plan)
    about = [step.replica for step in plan.steps if isinstance(step, (Restart, Move, Stop, Freeze, Thaw))]
    assert len(about) == len(set(about)), f"two steps about one replica: {plan.steps}"
    _judge_memory(world, plan)


def _judge_traffic(deployment: DeploymentState, plan: Plan) -> None:
    traffic = plan.traffic[deployment.name]
    replicas = {each.id: each for each in deployment.replicas}
    leaving = {
        s.replica for s in plan.steps if isinstance(s, Stop) or (isinstance(s, Move) and s.phase is Phase.DRAINING)
    }
    assert sum(traffic.weights.values()) == (100 if traffic.weights else 0), traffic
    assert set(traffic.weights) == set(traffic.endpoints), traffic
    for revision, ids in traffic.endpoints.items():
        for id in ids:
            assert id in replicas, f"{id} does not exist"
            assert id not in leaving, f"{id} has traffic and leaves"
            assert replicas[id].revision == revision
            if replicas[id].phase is not Phase.READY:
                _judge_waiting(deployment, replicas[id], {i for ids in traffic.endpoints.values() for i in ids})


def _judge_waiting(deployment: DeploymentState, replica: Replica, endpoints: Iterable[str]) -> None:
    """Requests may wait at the socket of a replica that is not ready in two cases, and never while one is ready."""
    assert replica.phase in (Phase.CREATED, Phase.STARTING, Phase.CRASHED), f"traffic to {replica}"
    ready = [each for each in deployment.replicas if each.id in endpoints and each.phase is Phase.READY]
    assert not ready, f"requests wait at {replica.id} although {ready} are ready"
    rollout = under_way(deployment)
    swapped_in = rollout is not None and rollout.holding and replica.revision == rollout.target
    had_traffic = replica.revision == deployment.active or replica.routed
    assert had_traffic or swapped_in, f"traffic to {replica}, which never was ready"


def _judge_stops(deployment: DeploymentState, plan: Plan) -> None:
    replicas = {each.id: each for each in deployment.replicas}
    for step in plan.steps:
        if isinstance(step, Stop) and step.deployment == deployment.name:
            replica = replicas[step.replica]
            assert not replica.routed, f"{replica} is stopped while it is routed"
            assert replica.phase not in (Phase.READY, Phase.STARTING, Phase.FREEZING), f"{replica} is not drained"


def _judge_memory(world: World, plan: Plan) -> None:
    sizes = {(d.name, number): each.memory for d in world.deployments for number, each in d.revisions.items()}
    owners = {each.id: (d.name, each.revision) for d in world.deployments for each in d.replicas}
    held = sum(
        sizes[d.name, each.revision] for d in world.deployments for each in d.replicas if each.phase in HOLDS_MEMORY
    )
    created = {each.id for d in world.deployments for each in d.replicas if each.phase is Phase.CREATED}
    starts = [sizes[s.deployment, s.revision] for s in plan.steps if isinstance(s, Start)]
    starts += [sizes[owners[s.replica]] for s in plan.steps if isinstance(s, Restart) and s.replica in created]
    assert not starts or held + sum(starts) <= world.memory, f"{held} held, {starts} started, {world.memory} there"


def judge_drains(world: World, plan: Plan, now: float) -> None:
    """A replica with requests in flight is stopped at its drain deadline at the soonest, unless nothing of it runs."""
    for deployment in world.deployments:
        replicas = {each.id: each for each in deployment.replicas}
        for step in plan.steps:
            if isinstance(step, Stop) and step.deployment == deployment.name:
                replica = replicas[step.replica]
                limit = replica.since + deployment.revisions[replica.revision].drain_s
                idle = replica.in_flight == 0 or replica.phase not in RUNS
                assert idle or now >= limit, f"{replica} is stopped with requests in flight"
