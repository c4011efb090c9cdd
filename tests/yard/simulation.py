"""A yard without containers, on a virtual clock: carries plans out on a world of values, with the delays of real ones.

Starts take time and fail, the gateway accepts late, requests finish late, orders are lost when the yard restarts. The
planner's tests drive it; every plan that is made is judged by `tests.yard.promises`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec

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
from tests.yard.promises import RUNS, Judge, endpoints_of, judge

GIB = 1 << 30
STABLE_S = 60.0


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
        self.judges: list[Judge] = [judge]
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
            number, RevisionState.PENDING, memory, msgspec.convert(strategy, Strategy), Probes(), self.now, drain_s=30.0
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
                self._after(self.delays.request, partial(self._finish_requests, each.id))

    # What a test asks.

    @property
    def world(self) -> World:
        return World(tuple(self.deployments.values()), self.memory)

    def replicas(self, name: str | None = None, revision: int | None = None) -> list[Replica]:
        chosen = [self.deployments[name]] if name else list(self.deployments.values())
        found = [each for deployment in chosen for each in deployment.replicas]
        return [each for each in found if revision in (None, each.revision)]

    def replica(self, name: str) -> Replica:
        return next(each for each in self.replicas() if each.id == name)

    def phases(self, revision: int, name: str = "shop") -> list[str]:
        return sorted(str(each.phase) for each in self.replicas(name, revision))

    def state(self, revision: int, name: str = "shop") -> RevisionState:
        return self.deployments[name].revisions[revision].state

    def weights(self, name: str = "shop") -> dict[int, int]:
        return dict(self.plans[-1].traffic[name].weights)

    def endpoints(self, name: str = "shop") -> set[str]:
        return endpoints_of(self.plans[-1].traffic[name])

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
            for each in self.judges:
                each(world, self.plans[-1], self.now)
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
        endpoints = frozenset(each for traffic in plan.traffic.values() for each in endpoints_of(traffic))
        if endpoints != self._sent:
            self._sent = endpoints
            self._accepts_at = max(self._accepts_at, self.now + self.delays.accept)
            self._after(self._accepts_at - self.now, lambda: self._accept(endpoints), survives=True)
        changed = [self._do(step) for step in plan.steps]
        return any(changed)

    def _do(self, step: Step) -> bool:
        """Whether it changed anything: a replica about which an order is under way is left to that."""
        if isinstance(step, (Restart, Move, Stop, Freeze, Thaw)) and step.replica in self._busy:
            return False
        match step:
            case Start(deployment, revision) | Create(deployment, revision):
                self._add(deployment, revision, Phase.STARTING if isinstance(step, Start) else Phase.CREATED)
            case Restart(_, replica):
                self._set(replica, phase=Phase.STARTING)
                self._launch(replica)
            case Move(_, replica, phase):
                self._set(replica, phase=phase)
            case Stop(_, replica):
                self._order(replica, self.delays.stop, partial(self._remove, replica))
            case Freeze(_, replica):
                self._order(replica, self.delays.freeze, partial(self._set, replica, phase=Phase.FROZEN))
            case Thaw(_, replica):
                self._order(replica, self.delays.freeze, partial(self._set, replica, phase=Phase.READY))
            case Advance():
                self._advance(step)
            case Mark(deployment, revision, state):
                self._mark(deployment, revision, state)
            case Forget(deployment):
                del self.deployments[deployment]
        return True

    def _add(self, deployment: str, revision: int, phase: Phase) -> None:
        new = Replica(f"{deployment}-{revision}-{next(self._number)}", revision, phase, self.now)
        self._change(deployment, replicas=(*self.deployments[deployment].replicas, new))
        if phase is Phase.STARTING:
            self._launch(new.id)

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
                    self._after(self.delays.request, partial(self._finish_requests, each.id))
                else:
                    self._serve(each.id)

    def _serve(self, replica: str) -> None:
        """Requests come as long as it is routed; what waited for it since before is answered."""
        if self.replica(replica).routed:
            self._set(replica, in_flight=3)
        else:
            self._after(self.delays.request, partial(self._finish_requests, replica))

    def _finish_requests(self, replica: str) -> None:
        now = next((each for each in self.replicas() if each.id == replica), None)
        if now is not None and not now.routed and now.phase in RUNS:
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


def running(replicas: int = 1, *, memory: int = 64 * GIB, **strategy: object) -> Yard:
    """A yard with one deployment, `shop`, whose first revision is active."""
    yard = Yard(memory)
    yard.deploy(replicas=replicas, **strategy)
    yard.run(30)
    assert yard.state(1) is RevisionState.ACTIVE
    return yard
