"""Whatever happens in whatever order, the planner keeps its promises and gets where it should."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dockyard.spec.deployment import StrategyKind
from dockyard.yard.plan import plan
from dockyard.yard.state import DeploymentState, Phase, Plan, RevisionState, World
from tests.yard.promises import serving, under_way
from tests.yard.simulation import GIB, Delays, Yard

NAMES = ("blog", "shop")
CALM_S = 3000.0
STRATEGIES = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["rolling", "blue-green"]),
        "max_surge": st.integers(0, 3),
        "max_unavailable": st.integers(0, 2),
        "keep": st.sampled_from(["warm", "frozen", "stopped"]),
        "hold_and_swap": st.sampled_from(["auto", "auto", "never"]),
        "preview": st.booleans(),
        "rollback_window_s": st.just(120.0),
        "progress_deadline_s": st.just(90.0),
    }
)


class Disturbed(RuleBasedStateMachine):
    """Deploys, rollbacks, scales, deletes, aborts, crashes, lost orders, late answers and jumps of the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.yard = Yard()
        self.yard.judges.append(self.keeps_its_floor)
        self.floors: dict[str, int] = {}

    @initialize(spare=st.sampled_from([0, 1, 3, 60]), replicas=st.integers(1, 4), strategy=STRATEGIES)
    def begin(self, spare: int, replicas: int, strategy: dict[str, object]) -> None:
        """Most of what is interesting happens to a deployment that runs."""
        self.yard.memory = (replicas + spare) * GIB
        self.yard.deploy("shop", replicas=replicas, **strategy | {"preview": False})
        self.yard.run(10.0)

    # What people do.

    @rule(
        name=st.sampled_from(NAMES),
        replicas=st.integers(0, 4),
        memory=st.sampled_from([GIB, GIB, GIB, GIB // 2, 2 * GIB]),
        strategy=STRATEGIES,
        broken=st.sampled_from([False, False, True]),
    )
    def deploy(self, name: str, replicas: int, memory: int, strategy: dict[str, object], broken: bool) -> None:
        old = self.yard.deployments.get(name)
        if old is None or self.at_rest(old):
            number = max(old.revisions) + 1 if old else 1
            if broken:
                self.yard.fates.broken.add((name, number))
            else:
                self.yard.fates.broken.discard((name, number))
            self.yard.deploy(name, replicas=old.wanted if old else replicas, memory=memory, **strategy)
            self.promise(name)

    @rule(name=st.sampled_from(NAMES), back=st.integers(1, 4))
    def roll_back(self, name: str, back: int) -> None:
        deployment = self.yard.deployments.get(name)
        if deployment is not None and self.at_rest(deployment) and deployment.active is not None:
            target = max(deployment.revisions) - back
            if target in deployment.revisions and target != deployment.active:
                self.yard.roll_to(target, name)
                self.promise(name)

    @rule(name=st.sampled_from(NAMES), wanted=st.integers(0, 4))
    def scale(self, name: str, wanted: int) -> None:
        if name in self.yard.deployments:
            self.floors.pop(name, None)
            self.yard.scale(wanted, name)

    @rule(name=st.sampled_from(NAMES), what=st.sampled_from(["promote", "promote", "abort"]))
    def decide(self, name: str, what: str) -> None:
        deployment = self.yard.deployments.get(name)
        if deployment is not None and under_way(deployment):
            self.yard.promote(name) if what == "promote" else self.yard.abort(name=name)

    @rule(name=st.sampled_from(NAMES), sure=st.sampled_from([False, False, False, True]))
    def delete(self, name: str, sure: bool) -> None:
        if name in self.yard.deployments and sure:
            self.floors.pop(name, None)
            self.yard.delete(name)

    # What goes wrong.

    @rule(which=st.integers(0, 20), all_of_them=st.booleans())
    @precondition(lambda self: self.yard.replicas())
    def crash(self, which: int, all_of_them: bool) -> None:
        victim = self.yard.replicas()[which % len(self.yard.replicas())]
        name = next(name for name, each in self.yard.deployments.items() if victim in each.replicas)
        self.floors.pop(name, None)
        for each in self.yard.replicas(name, victim.revision) if all_of_them else [victim]:
            if each.phase not in (Phase.CREATED, Phase.CRASHED):
                self.yard.crash(each.id)

    @rule(count=st.integers(1, 3))
    def fail_starts(self, count: int) -> None:
        self.yard.fates.flaky = count

    @rule()
    def restart_yard(self) -> None:
        self.yard.restart_yard()

    @rule(
        start=st.sampled_from([0.5, 2.0, 20.0]),
        accept=st.sampled_from([0.0, 0.05, 5.0]),
        request=st.sampled_from([0.0, 0.2, 100.0]),
        stop=st.sampled_from([0.0, 0.5, 9.0]),
    )
    def slow_down(self, start: float, accept: float, request: float, stop: float) -> None:
        self.yard.delays = Delays(start=start, accept=accept, request=request, stop=stop)

    # Time.

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 3.0, 3.0, 10.0, 60.0]))
    def run(self, seconds: float) -> None:
        self.yard.run(seconds)

    @rule(seconds=st.sampled_from([1.0, 3.0, 100.0, 1000.0]))
    def jump(self, seconds: float) -> None:
        self.yard.jump(seconds)

    # What is promised.

    @invariant()
    def settles(self) -> None:
        self.yard.settle()

    def promise(self, name: str) -> None:
        """From a healthy source on, so many replicas serve until somebody takes one away or asks for another number."""
        deployment = self.yard.deployments[name]
        rollout = under_way(deployment)
        assert rollout is not None
        source = self.yard.replicas(name, rollout.source) if rollout.source else []
        ready = [each for each in source if each.phase is Phase.READY]
        self.floors.pop(name, None)
        if deployment.wanted and len(ready) == deployment.wanted == len(source):
            strategy = deployment.revisions[rollout.target].strategy
            rolling = strategy.kind is StrategyKind.ROLLING
            self.floors[name] = max(1, deployment.wanted - strategy.max_unavailable * rolling)

    def keeps_its_floor(self, world: World, plan: Plan, now: float) -> None:
        for deployment in world.deployments:
            rollout = under_way(deployment)
            if rollout is not None and rollout.holding:
                self.floors.pop(deployment.name, None)
            if deployment.name in self.floors:
                served = serving(plan.traffic[deployment.name])
                ready = [each for each in deployment.replicas if each.phase is Phase.READY and each.id in served]
                assert len(ready) >= self.floors[deployment.name], f"{len(ready)} serve of {deployment}"

    @staticmethod
    def at_rest(deployment: DeploymentState) -> bool:
        return under_way(deployment) is None and not deployment.deleted

    # Where it ends.

    def teardown(self) -> None:
        """Nothing is disturbed any more; what is left to do gets done."""
        self.yard.delays, self.yard.fates.flaky = Delays(), 0
        for name, deployment in self.yard.deployments.items():
            if under_way(deployment):
                self.yard.promote(name)
        self.yard.run(CALM_S)
        for deployment in self.yard.world.deployments:
            self.is_at_its_aim(deployment)
        self.yard.restart_yard()
        self.yard.run(1.0)
        if not any((each.name, each.active) in self.yard.fates.broken for each in self.yard.world.deployments):
            assert self.yard.plans[-1].steps == (), "a plan for a world in which nothing is to be done"
            assert self.yard.plans[-1].wake is None
            assert plan(self.yard.world, self.yard.now) == plan(self.yard.world, self.yard.now + 1e6)

    def is_at_its_aim(self, deployment: DeploymentState) -> None:
        name, active = deployment.name, deployment.active
        assert not deployment.deleted, f"{name} is still there"
        assert under_way(deployment) is None, f"a rollout that never ends: {deployment}"
        states = [each.state for each in deployment.revisions.values()]
        assert states.count(RevisionState.ACTIVE) == (active is not None), states
        assert all(each.revision == active for each in deployment.replicas), f"left over: {deployment}"
        if active is None:
            assert self.yard.weights(name) == {}
            return
        assert self.yard.weights(name) == {active: 100}
        if (name, active) in self.yard.fates.broken:
            return
        ready = [each for each in deployment.replicas if each.phase is Phase.READY]
        assert len(ready) == len(deployment.replicas), f"not all are ready: {deployment}"
        assert self.yard.endpoints(name) == {each.id for each in ready if each.routed}
        assert len(ready) <= deployment.wanted
        if len(ready) < deployment.wanted:
            assert self.free() < deployment.revisions[active].memory, f"too few although memory is there: {deployment}"

    def free(self) -> int:
        sizes = {d.name: {n: each.memory for n, each in d.revisions.items()} for d in self.yard.world.deployments}
        held = (sizes[d.name][each.revision] for d in self.yard.world.deployments for each in d.replicas)
        return self.yard.memory - sum(held)


class TestDisturbed(Disturbed.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(settings.get_profile("fixed"), max_examples=200, stateful_step_count=40)
