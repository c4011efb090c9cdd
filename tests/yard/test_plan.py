"""A deployment at rest: scale, crash, keep, retire, delete; and what a plan says to people."""

from __future__ import annotations

import pytest

from dockyard.spec.deployment import Probes, Strategy
from dockyard.yard.plan import describe, plan
from dockyard.yard.state import (
    DeploymentState,
    Move,
    Phase,
    Replica,
    Restart,
    Revision,
    RevisionState,
    Start,
    Stop,
    Traffic,
    World,
)
from tests.yard.simulation import GIB, Delays, Yard, running


def test_an_empty_world_has_an_empty_plan() -> None:
    found = plan(World((), GIB), 0.0)
    assert (found.steps, found.wake, dict(found.traffic)) == ((), None, {})


def test_a_converged_world_has_a_plan_without_steps_however_late_it_is() -> None:
    yard = running(replicas=3)
    for now in (yard.now, yard.now + 1e9):
        found = plan(yard.world, now)
        assert (found.steps, found.wake, found.notes) == ((), None, ())


def test_planning_twice_gives_the_same_plan() -> None:
    yard = running(replicas=2)
    yard.deploy()
    assert plan(yard.world, yard.now) == plan(yard.world, yard.now)


def test_scaling_up_serves_with_each_replica_as_soon_as_it_is_ready() -> None:
    yard = running(replicas=1)
    yard.scale(3)
    yard.settle()
    assert yard.phases(1) == ["ready", "starting", "starting"]
    assert len(yard.endpoints()) == 1
    yard.run(2)
    assert len(yard.endpoints()) == 3


def test_scaling_down_drains_the_youngest_and_stops_it_once_the_gateway_has_let_it_go() -> None:
    yard = running(replicas=2)
    young = yard.replicas("shop")[-1].id
    yard.delays = Delays(accept=5.0, request=10.0, stop=1.0)
    yard.scale(1)
    yard.settle()
    assert yard.replica(young).phase is Phase.DRAINING
    assert young not in yard.endpoints()
    assert yard.plans[-1].traffic["shop"].draining == {1: (young,)}
    yard.run(14.9)
    assert yard.replica(young).in_flight == 3
    assert yard.plans[-1].traffic["shop"].draining == {1: (young,)}, "or nobody would count its requests"
    assert not stopped(yard)
    yard.run(0.2)
    assert stopped(yard) == {young}
    yard.run(1)
    assert len(yard.replicas()) == 1


def test_a_drain_ends_at_its_deadline_although_requests_are_in_flight() -> None:
    yard = running(replicas=2)
    yard.delays = Delays(request=1e6)
    yard.scale(1)
    yard.run(29.9)
    assert not stopped(yard)
    yard.run(0.2)
    assert len(stopped(yard)) == 1


def test_a_replica_is_never_stopped_while_the_gateway_still_routes_to_it() -> None:
    yard = running(replicas=2)
    yard.delays = Delays(accept=1e6)
    yard.scale(1)
    yard.run(10_000)
    assert not stopped(yard)
    assert yard.phases(1) == ["draining", "ready"]


def test_requests_at_a_replica_without_a_process_are_not_waited_for() -> None:
    for phase in (Phase.CRASHED, Phase.CREATED):
        dead = Replica("b", 1, phase, since=0.0, crashes=1, in_flight=3)
        found = plan(at_rest(Replica("a", 1, Phase.READY, since=0.0, routed=True), dead), 0.0)
        assert [(type(step), step.replica) for step in found.steps if isinstance(step, Stop)] == [(Stop, "b")]


def test_scaling_to_zero_and_back() -> None:
    yard = running(replicas=2)
    yard.scale(0)
    yard.run(10)
    assert yard.replicas() == []
    assert yard.plans[-1].traffic["shop"].weights == {1: 100}
    yard.scale(1)
    yard.run(10)
    assert yard.phases(1) == ["ready"]


def test_scaling_beyond_memory_starts_what_fits_and_says_what_waits() -> None:
    yard = running(replicas=1, memory=2 * GIB)
    yard.scale(3)
    yard.run(10)
    assert yard.phases(1) == ["ready", "ready"]
    assert [each.text for each in yard.plans[-1].notes] == [
        "1 of 3 replicas of revision 1 wait for memory: 0 B of 2.1 GB are free"
    ]


def test_scaling_up_takes_the_memory_of_kept_replicas_the_oldest_first() -> None:
    yard = running(replicas=1, memory=3 * GIB)
    for _ in range(2):
        yard.deploy()
        yard.run(30)
    assert (yard.phases(1), yard.phases(2), yard.phases(3)) == (["frozen"], ["frozen"], ["ready"])
    yard.scale(2)
    yard.run(10)
    assert (yard.phases(1), yard.phases(2), yard.phases(3)) == ([], ["frozen"], ["ready", "ready"])


def test_memory_that_others_are_leaving_is_used_when_it_is_free() -> None:
    yard = running(replicas=2, memory=2 * GIB)
    yard.deploy("blog", replicas=1)
    yard.scale(1)
    yard.run(10)
    assert yard.weights("blog") == {1: 100}
    assert [each.phase for each in yard.replicas("blog")] == [Phase.READY]


# Healing.


def test_a_crashed_replica_is_restarted_at_once_then_after_growing_pauses() -> None:
    yard = running(replicas=2)
    victim = yard.replicas("shop")[0].id
    pauses = []
    for _ in range(9):
        yard.crash(victim)
        crashed_at = yard.now
        yard.run_until(lambda: yard.replica(victim).phase is Phase.STARTING)
        pauses.append(yard.now - crashed_at)
    assert pauses == pytest.approx([0, 1, 2, 4, 8, 16, 32, 60, 60])


def test_a_replica_that_has_crashed_a_thousand_times_is_started_all_the_same() -> None:
    lost = at_rest(Replica("a", 1, Phase.CRASHED, since=0.0, crashes=1000))
    assert plan(lost, 59.0).wake == 60.0
    assert plan(lost, 60.0).steps == (Restart("shop", "a"),)


def test_a_crashed_replica_has_no_traffic_while_another_is_ready() -> None:
    yard = running(replicas=2)
    victim = yard.replicas("shop")[0].id
    yard.crash(victim)
    yard.settle()
    assert yard.endpoints() == {each.id for each in yard.replicas()} - {victim}
    yard.run(10)
    assert len(yard.endpoints()) == 2


def test_requests_wait_at_the_socket_of_the_only_replica_while_it_is_restarted() -> None:
    yard = running(replicas=1)
    only = yard.replicas()[0].id
    for _ in range(4):
        yard.crash(only)
        yard.settle()
        assert yard.endpoints() == {only}
        yard.run_until(lambda: yard.replica(only).phase is Phase.READY)
    assert yard.state(1) is RevisionState.ACTIVE


def test_a_replica_that_vanished_is_replaced_and_its_successor_takes_the_requests_at_once() -> None:
    vanished = plan(at_rest(), 0.0)
    assert vanished.steps == (Start("shop", 1),)
    assert vanished.traffic["shop"] == Traffic({1: 100}, {1: ()})
    starting = plan(at_rest(Replica("b", 1, Phase.STARTING, since=0.0)), 0.0)
    assert starting.traffic["shop"].endpoints == {1: ("b",)}


def test_a_start_that_nobody_waits_for_any_more_counts_as_a_crash() -> None:
    lost = at_rest(Replica("a", 1, Phase.STARTING, since=0.0))
    deadline = Probes().start_deadline_s + 10
    assert plan(lost, deadline - 1).wake == deadline
    assert plan(lost, deadline).steps == (Move("shop", "a", Phase.CRASHED, "nobody is waiting for its start any more"),)


# Keeping.


@pytest.mark.parametrize(("keep", "phases"), [("warm", ["ready"]), ("frozen", ["frozen"]), ("stopped", [])])
def test_the_old_revision_is_kept_for_its_window_and_retired_then(keep: str, phases: list[str]) -> None:
    yard = running()
    yard.deploy(keep=keep, rollback_window_s=100)
    yard.run_until(lambda: yard.state(1) is RevisionState.KEPT)
    yard.run(20)
    assert yard.phases(1) == phases
    yard.run(79)
    assert yard.state(1) is RevisionState.KEPT
    yard.run(3)
    assert yard.state(1) is RevisionState.RETIRED
    assert yard.phases(1) == []


def test_an_old_replica_is_frozen_only_after_the_gateways_connections_have_closed() -> None:
    yard = running()
    old = yard.replicas()[0].id
    yard.delays = Delays(accept=3.0, request=2.0)
    yard.deploy()
    yard.run_until(lambda: not yard.replica(old).routed)
    quiet_for = yard.run_until(lambda: yard.replica(old).phase is Phase.FROZEN)
    assert quiet_for == pytest.approx(5.0, abs=0.1)


def test_a_replica_with_a_request_in_flight_is_not_frozen() -> None:
    yard = running()
    old = yard.replicas()[0].id
    yard.delays = Delays(request=1e6)
    yard.deploy()
    yard.run(500)
    assert yard.replica(old).phase is Phase.FREEZING


def test_no_more_than_two_old_revisions_are_kept() -> None:
    yard = running()
    for _ in range(4):
        yard.deploy()
        yard.run(20)
    assert [str(yard.state(number)) for number in range(1, 6)] == ["retired", "retired", "kept", "kept", "active"]
    assert len(yard.replicas()) == 3


def test_a_kept_replica_that_crashes_is_not_started_again() -> None:
    yard = running()
    old = yard.replicas()[0].id
    yard.deploy(keep="warm")
    yard.run(20)
    yard.crash(old)
    yard.run(5)
    assert yard.phases(1) == []


# Deleting.


def test_a_deleted_deployment_drains_then_is_forgotten() -> None:
    yard = running(replicas=2)
    yard.delays = Delays(accept=1.0, request=3.0, stop=1.0)
    yard.delete()
    yard.settle()
    assert yard.plans[-1].traffic["shop"].weights == {}
    yard.run(3.9)
    assert yard.phases(1) == ["draining", "draining"]
    yard.run(2)
    assert yard.deployments == {}


def test_a_deployment_is_deleted_in_the_middle_of_a_rollout() -> None:
    yard = running(replicas=2)
    yard.deploy()
    yard.run(3)
    yard.delete()
    yard.run(20)
    assert yard.deployments == {}


def test_a_frozen_replica_of_a_deleted_deployment_is_stopped() -> None:
    yard = running()
    yard.deploy()
    yard.run(20)
    yard.delete()
    yard.run(5)
    assert yard.deployments == {}


# What it says.


def test_a_plan_is_described_in_sentences_that_count() -> None:
    yard = Yard()
    yard.deploy(replicas=3)
    assert describe(plan(yard.world, yard.now)) == ("shop: start 3 replicas of revision 1",)
    yard.run(30)
    yard.deploy()
    assert describe(plan(yard.world, yard.now)) == ("shop: start 1 replica of revision 2",)
    yard.delete()
    assert describe(plan(yard.world, yard.now))[0] == "shop: shop-1-2 is draining: the deployment is deleted"


def test_every_step_has_a_sentence() -> None:
    yard = Yard(memory=2 * GIB)
    yard.deploy(replicas=1)
    yard.run(30)
    yard.deploy()
    yard.run(30)
    yard.roll_to(1)
    yard.run(30)
    yard.deploy(memory=2 * GIB)
    yard.run(30)
    yard.delete()
    yard.run(30)
    said = " ".join(sentence for each in yard.plans for sentence in describe(each))
    for word in (
        "start 1",
        "make the socket",
        "again",
        "draining",
        "stop ",
        "freeze ",
        "thaw ",
        "rollout is",
        "forget",
    ):
        assert word in said
    assert said.endswith("forget the deployment")


def at_rest(*replicas: Replica) -> World:
    """One deployment with an active revision, and nothing else."""
    revision = Revision(1, RevisionState.ACTIVE, GIB, Strategy(), Probes())
    return World((DeploymentState("shop", 1, 1, {1: revision}, replicas),), 64 * GIB)


def stopped(yard: Yard) -> set[str]:
    """Every replica that a plan has stopped."""
    return {step.replica for each in yard.plans for step in each.steps if isinstance(step, Stop)}
