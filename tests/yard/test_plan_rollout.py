"""Rollouts, the way there and back: rolling, blue-green, promote, abort, rollback, and what fails on the way."""

from __future__ import annotations

import pytest

from dockyard.yard.state import Phase, RevisionState, RolloutPhase
from tests.yard.simulation import GIB, Delays, Yard, running

KINDS = pytest.mark.parametrize("kind", ["rolling", "blue-green"])


def phase(yard: Yard) -> RolloutPhase:
    rollout = yard.deployments["shop"].rollout
    assert rollout is not None
    return rollout.phase


def ready_endpoints(yard: Yard) -> int:
    return sum(yard.replica(each).phase is Phase.READY for each in yard.endpoints())


def watch_ready(yard: Yard) -> list[int]:
    """How many ready replicas have traffic in every plan from now on."""
    seen: list[int] = []
    yard.judges.append(lambda *_: seen.append(ready_endpoints(yard)))
    return seen


# The first.


@KINDS
def test_a_first_rollout_starts_all_and_becomes_active(kind: str) -> None:
    yard = Yard()
    yard.deploy(replicas=3, kind=kind)
    yard.settle()
    assert yard.phases(1) == ["starting"] * 3
    assert yard.endpoints() == set()
    yard.run(5)
    assert (phase(yard), yard.state(1)) == (RolloutPhase.DONE, RevisionState.ACTIVE)
    assert (yard.weights(), len(yard.endpoints())) == ({1: 100}, 3)


@KINDS
def test_a_first_revision_that_never_starts_is_failed_and_nothing_is_left_of_it(kind: str) -> None:
    yard = Yard()
    yard.fates.broken.add(("shop", 1))
    yard.deploy(replicas=2, kind=kind)
    yard.run(60)
    assert (phase(yard), yard.state(1)) == (RolloutPhase.FAILED, RevisionState.FAILED)
    assert yard.replicas() == []
    assert yard.plans[-1].steps == ()
    assert "ended 3 times in a row" in yard.told[-1]


@KINDS
def test_a_rollout_is_done_only_when_the_gateway_has_accepted_it(kind: str) -> None:
    yard = Yard(delays=Delays(accept=5.0))
    yard.deploy(kind=kind)
    yard.run(6.9)
    assert phase(yard) is RolloutPhase.SWITCHING
    yard.run(0.2)
    assert phase(yard) is RolloutPhase.DONE
    yard.deploy(kind=kind, keep="warm")
    yard.run(6.9)
    assert phase(yard) is RolloutPhase.SWITCHING
    yard.run(0.2)
    assert phase(yard) is RolloutPhase.DONE


# Rolling.


def test_a_rolling_rollout_replaces_one_by_one_and_never_serves_with_fewer() -> None:
    yard = running(replicas=3)
    seen = watch_ready(yard)
    yard.deploy(max_surge=1, max_unavailable=0)
    shares = []
    yard.judges.append(lambda world, plan, now: shares.append(dict(plan.traffic["shop"].weights)))
    yard.run(30)
    assert (phase(yard), yard.weights()) == (RolloutPhase.DONE, {2: 100})
    assert min(seen) == 3
    steps = list(dict.fromkeys(tuple(sorted(each.items())) for each in shares))
    assert steps == [((1, 100),), ((1, 67), (2, 33)), ((1, 33), (2, 67)), ((2, 100),)]


def test_a_surge_starts_so_many_at_once() -> None:
    yard = running(replicas=3)
    yard.deploy(max_surge=2)
    yard.settle()
    assert yard.phases(2) == ["starting", "starting"]


def test_max_unavailable_lets_old_ones_go_before_new_ones_are_ready() -> None:
    yard = running(replicas=3)
    seen = watch_ready(yard)
    yard.deploy(max_surge=0, max_unavailable=1)
    yard.settle()
    assert (yard.phases(1), yard.phases(2)) == (["freezing", "ready", "ready"], ["starting"])
    yard.run(30)
    assert phase(yard) is RolloutPhase.DONE
    assert min(seen) == 2


def test_the_last_ready_replica_stays_until_its_successor_is_ready_whatever_may_be_unavailable() -> None:
    yard = running(replicas=1)
    seen = watch_ready(yard)
    yard.deploy(max_surge=0, max_unavailable=1)
    yard.run(30)
    assert phase(yard) is RolloutPhase.DONE
    assert min(seen) == 1


@KINDS
def test_scaling_during_a_rollout_reaches_the_new_number(kind: str) -> None:
    yard = running(replicas=2)
    yard.deploy(kind=kind)
    yard.run(1)
    yard.scale(4)
    yard.run(40)
    assert (phase(yard), yard.phases(2)) == (RolloutPhase.DONE, ["ready"] * 4)
    yard.deploy(kind=kind)
    yard.run(3)
    yard.scale(1)
    yard.run(40)
    assert (phase(yard), yard.phases(3), yard.weights()) == (RolloutPhase.DONE, ["ready"], {3: 100})


def test_an_old_replica_is_frozen_while_the_rollout_still_goes_on() -> None:
    yard = running(replicas=2)
    yard.delays = Delays(start=30.0)
    yard.deploy()
    yard.run(40)
    assert (phase(yard), yard.phases(1)) == (RolloutPhase.STARTING, ["frozen", "ready"])


def test_a_source_that_crashes_is_healed_while_it_is_needed() -> None:
    yard = running(replicas=2)
    yard.delays = Delays(start=30.0)
    yard.deploy()
    yard.run(1)
    yard.crash(yard.replicas("shop", 1)[0].id)
    yard.settle()
    assert yard.phases(1) == ["ready", "starting"]


def test_what_sleeps_is_woken_when_the_new_side_loses_replicas() -> None:
    yard = running(replicas=2)
    yard.delays = Delays(start=30.0)
    yard.deploy()
    yard.run(40)
    yard.fates.broken.add(("shop", 2))
    yard.crash(yard.replicas("shop", 2)[0].id)
    yard.run(1)
    assert (yard.phases(1), len(yard.endpoints())) == (["ready", "ready"], 2)


# Blue-green.


def test_the_source_of_a_blue_green_rollout_is_healed_and_scaled_until_the_switch() -> None:
    yard = running(replicas=2)
    yard.deploy(kind="blue-green", preview=True)
    yard.run(10)
    yard.crash(yard.replicas("shop", 1)[0].id)
    yard.scale(3)
    yard.run(10)
    assert (phase(yard), yard.phases(1), len(yard.phases(2))) == (RolloutPhase.PREVIEW, ["ready"] * 3, 3)


def test_blue_green_switches_all_traffic_at_once_when_all_are_ready() -> None:
    yard = running(replicas=3)
    yard.deploy(kind="blue-green")
    shares = []
    yard.judges.append(lambda world, plan, now: shares.append(dict(plan.traffic["shop"].weights)))
    yard.run(30)
    assert phase(yard) is RolloutPhase.DONE
    assert [each for n, each in enumerate(shares) if each not in shares[:n]] == [{1: 100}, {2: 100}]


def test_the_source_is_untouched_until_the_gateway_has_accepted_the_switch() -> None:
    yard = running(replicas=2)
    yard.delays = Delays(accept=5.0)
    yard.deploy(kind="blue-green")
    yard.run_until(lambda: phase(yard) is RolloutPhase.SWITCHING)
    yard.run(4.9)
    assert (phase(yard), yard.phases(1)) == (RolloutPhase.SWITCHING, ["ready", "ready"])
    yard.run(0.2)
    assert (phase(yard), yard.phases(1)) == (RolloutPhase.DONE, ["freezing", "freezing"])


def test_a_preview_answers_apart_until_it_is_promoted() -> None:
    yard = running(replicas=1)
    yard.deploy(kind="blue-green", preview=True)
    yard.run(1000)
    assert phase(yard) is RolloutPhase.PREVIEW
    traffic = yard.plans[-1].traffic["shop"]
    assert (traffic.weights, traffic.preview, len(traffic.endpoints[2])) == ({1: 100, 2: 0}, 2, 1)
    yard.promote()
    yard.settle()
    assert yard.weights() == {2: 100}
    yard.run(1)
    assert phase(yard) is RolloutPhase.DONE


def test_a_promotion_waits_until_a_replica_that_crashed_in_the_preview_is_ready_again() -> None:
    yard = running(replicas=1)
    yard.deploy(kind="blue-green", preview=True)
    yard.run(1000)
    yard.crash(yard.replicas("shop", 2)[0].id)
    yard.promote()
    yard.settle()
    assert (phase(yard), yard.weights()) == (RolloutPhase.STARTING, {1: 100})
    yard.run(5)
    assert (phase(yard), yard.weights()) == (RolloutPhase.DONE, {2: 100})


def test_a_preview_that_is_aborted_goes_and_nobody_notices() -> None:
    yard = running(replicas=2)
    seen = watch_ready(yard)
    yard.deploy(kind="blue-green", preview=True)
    yard.run(10)
    yard.abort("the numbers look odd")
    yard.run(10)
    assert (yard.state(2), yard.phases(2), yard.weights()) == (RevisionState.FAILED, [], {1: 100})
    assert yard.told[-1] == "failed: the numbers look odd"
    assert min(seen) == 2


def test_a_target_that_is_lost_at_the_switch_gives_the_traffic_back_until_it_is_ready() -> None:
    yard = running(replicas=1)
    yard.delays = Delays(accept=5.0)
    yard.deploy(kind="blue-green")
    yard.run_until(lambda: phase(yard) is RolloutPhase.SWITCHING)
    yard.crash(yard.replicas("shop", 2)[0].id)
    yard.settle()
    assert (phase(yard), yard.weights()) == (RolloutPhase.STARTING, {1: 100})
    yard.run(30)
    assert (phase(yard), yard.weights()) == (RolloutPhase.DONE, {2: 100})


def test_a_target_that_is_lost_at_the_switch_together_with_the_source_is_not_made_active() -> None:
    yard = running(replicas=1)
    yard.delays = Delays(accept=5.0)
    yard.deploy(keep="warm")
    yard.run_until(lambda: phase(yard) is RolloutPhase.SWITCHING)
    yard.fates.broken.add(("shop", 2))
    for each in yard.replicas():
        yard.crash(each.id)
    yard.settle()
    assert yard.endpoints() == {each.id for each in yard.replicas("shop", 1)}
    yard.run(60)
    assert (phase(yard), yard.phases(1), yard.weights()) == (RolloutPhase.FAILED, ["ready"], {1: 100})


# Back.


@KINDS
@pytest.mark.parametrize("keep", ["warm", "frozen", "stopped"])
def test_a_revision_that_never_starts_is_rolled_back_and_the_source_never_had_fewer(kind: str, keep: str) -> None:
    yard = running(replicas=3)
    seen = watch_ready(yard)
    yard.fates.broken.add(("shop", 2))
    yard.deploy(kind=kind, keep=keep)
    yard.run(60)
    assert (phase(yard), yard.state(2)) == (RolloutPhase.FAILED, RevisionState.FAILED)
    assert (yard.weights(), yard.phases(1), yard.phases(2)) == ({1: 100}, ["ready"] * 3, [])
    assert min(seen) == 3
    assert "ended 3 times in a row" in yard.told[-1]


@KINDS
def test_a_rollout_that_gets_no_further_is_rolled_back_at_its_deadline(kind: str) -> None:
    yard = running(replicas=2)
    yard.delays = Delays(start=1000.0)
    yard.deploy(kind=kind, progress_deadline_s=50)
    yard.run(49.9)
    assert phase(yard) is RolloutPhase.STARTING
    yard.run(1)
    assert phase(yard) is RolloutPhase.FAILED
    assert "no further for 50 s" in yard.told[-1]
    yard.run(100)
    assert (yard.phases(1), yard.phases(2)) == (["ready", "ready"], [])


@pytest.mark.parametrize("seconds", [100.0, 1000.0])
def test_a_yard_that_sleeps_while_it_goes_back_waits_for_the_source_all_the_same(seconds: float) -> None:
    yard = running(replicas=2)
    yard.memory = 3 * GIB
    seen = watch_ready(yard)
    yard.deploy(progress_deadline_s=90)
    yard.run_until(lambda: len(yard.replicas("shop", 2)) == 1 and yard.phases(2) == ["ready"])
    yard.delays = Delays(start=10_000.0)
    yard.run(1)
    yard.jump(seconds)
    yard.delays = Delays()
    yard.jump(seconds)
    yard.run(300)
    assert phase(yard) is RolloutPhase.FAILED
    assert (yard.phases(1), min(seen)) == (["ready", "ready"], 2)


def test_a_start_after_a_crash_is_no_progress() -> None:
    yard = running(replicas=1)
    yard.delays = Delays(start=40.0)
    yard.fates.broken.add(("shop", 2))
    yard.deploy(progress_deadline_s=50)
    assert yard.run_until(lambda: phase(yard) is RolloutPhase.FAILED) < 51


def test_every_replica_that_gets_ready_is_progress() -> None:
    yard = running(replicas=4)
    yard.delays = Delays(start=40.0)
    yard.deploy(progress_deadline_s=50)
    yard.run(200)
    assert phase(yard) is RolloutPhase.DONE


@pytest.mark.parametrize("keep", ["warm", "frozen", "stopped"])
def test_an_abort_in_the_middle_brings_the_source_back_without_serving_with_fewer(keep: str) -> None:
    yard = running(replicas=3)
    seen = watch_ready(yard)
    yard.deploy(keep=keep)
    yard.run_until(lambda: len(yard.replicas("shop", 2)) == 3)
    yard.abort("no")
    yard.run(60)
    assert (phase(yard), yard.weights(), yard.phases(1), yard.phases(2)) == (
        RolloutPhase.FAILED,
        {1: 100},
        ["ready"] * 3,
        [],
    )
    assert min(seen) == 3


def test_an_abort_after_scaling_down_wakes_no_more_than_are_wanted_and_keeps_none_asleep() -> None:
    yard = running(replicas=3)
    yard.delays = Delays(accept=20.0)
    yard.deploy(kind="rolling", keep="frozen")
    yard.run_until(lambda: phase(yard) is RolloutPhase.SWITCHING)
    yard.run(10)
    yard.scale(1)
    yard.abort()
    yard.run(60)
    assert (phase(yard), yard.phases(1), yard.phases(2)) == (RolloutPhase.FAILED, ["ready"], [])


@KINDS
@pytest.mark.parametrize(("keep", "within"), [("warm", 0.0), ("frozen", 0.05), ("stopped", 8.0)])
def test_a_rollback_is_instant_when_warm_a_thaw_when_frozen_and_a_start_when_stopped(
    kind: str, keep: str, within: float
) -> None:
    yard = running(replicas=3, kind=kind, keep=keep)
    yard.deploy(kind=kind, keep=keep)
    yard.run(60)
    yard.roll_to(1)
    seen = watch_ready(yard)
    assert yard.run_until(lambda: yard.weights() == {1: 100}) <= within
    yard.run(60)
    assert (phase(yard), yard.state(1), yard.state(2)) == (RolloutPhase.DONE, RevisionState.ACTIVE, RevisionState.KEPT)
    assert min(seen) == 3


def test_a_rollback_to_replicas_that_are_about_to_be_frozen_is_instant() -> None:
    yard = running(replicas=2)
    yard.deploy()
    yard.run_until(lambda: phase(yard) is RolloutPhase.DONE)
    yard.run(0.1)
    assert "freezing" in yard.phases(1)
    yard.roll_to(1)
    assert yard.run_until(lambda: yard.weights() == {1: 100}) <= 0.05


def test_a_rollback_to_a_retired_revision_starts_it_again() -> None:
    yard = running(replicas=2, rollback_window_s=10)
    yard.deploy(rollback_window_s=10)
    yard.run(60)
    assert yard.state(1) is RevisionState.RETIRED
    yard.roll_to(1)
    yard.run(60)
    assert (yard.weights(), yard.state(1)) == ({1: 100}, RevisionState.ACTIVE)


def test_a_rollback_does_not_hold_earlier_crashes_against_a_replica_that_is_ready() -> None:
    yard = running(replicas=1)
    old = yard.replicas()[0].id
    for _ in range(4):
        yard.crash(old)
        yard.run_until(lambda: yard.replica(old).phase is Phase.READY)
    yard.deploy(keep="warm")
    yard.run(20)
    yard.roll_to(1)
    yard.run(10)
    assert (phase(yard), yard.weights()) == (RolloutPhase.DONE, {1: 100})


def test_an_abort_at_the_switch_starts_a_source_that_was_not_kept_again() -> None:
    yard = running(replicas=2)
    yard.delays = Delays(accept=5.0)
    yard.deploy(keep="stopped")
    yard.run_until(lambda: phase(yard) is RolloutPhase.SWITCHING and yard.phases(1) != [])
    seen = watch_ready(yard)
    yard.abort()
    yard.run(60)
    assert (phase(yard), yard.phases(1), yard.phases(2)) == (RolloutPhase.FAILED, ["ready", "ready"], [])
    assert min(seen) == 2


def test_going_back_may_take_longer_than_the_deadline_as_long_as_it_gets_on() -> None:
    yard = running(replicas=3)
    yard.deploy(keep="stopped", progress_deadline_s=50)
    yard.run_until(lambda: yard.phases(2) == ["ready"] * 3)
    seen = watch_ready(yard)
    yard.delays = Delays(start=40.0)
    yard.abort()
    yard.run(200)
    assert (phase(yard), yard.phases(1), yard.phases(2)) == (RolloutPhase.FAILED, ["ready"] * 3, [])
    assert min(seen) == 3


def test_a_source_that_comes_back_late_is_waited_for_so_that_no_fewer_serve() -> None:
    yard = running(replicas=3)
    yard.deploy(keep="stopped", progress_deadline_s=50)
    yard.run_until(lambda: yard.phases(2) == ["ready", "starting"])
    yard.abort()
    yard.fates.flaky = 2
    seen = watch_ready(yard)
    yard.settle()
    yard.delays = Delays(start=30.0)
    yard.run(200)
    assert (phase(yard), yard.phases(1), yard.phases(2)) == (RolloutPhase.FAILED, ["ready"] * 3, [])
    assert min(seen) == 3


# Who keeps the traffic when both are ill.


def test_a_target_without_a_ready_replica_is_given_up_although_the_source_is_ill_too() -> None:
    yard = running(replicas=1)
    yard.fates.broken |= {("shop", 1), ("shop", 2)}
    only = yard.replicas()[0].id
    yard.crash(only)
    yard.run(60)
    yard.deploy()
    yard.run(1000)
    assert (phase(yard), yard.state(2)) == (RolloutPhase.FAILED, RevisionState.FAILED)
    assert (yard.endpoints(), yard.phases(2)) == ({only}, [])


def test_requests_wait_at_a_new_replica_that_had_traffic_when_nothing_is_left_of_the_old_side() -> None:
    yard = running(replicas=2)
    yard.delays = Delays(start=2.0, accept=0.0, request=0.0, stop=0.0)
    yard.deploy(keep="stopped", max_unavailable=1, max_surge=0)
    yard.run_until(lambda: yard.phases(2) == ["ready", "starting"] and not yard.phases(1))
    served = next(each for each in yard.replicas() if each.phase is Phase.READY)
    yard.run(0.1)
    yard.crash(served.id)
    yard.settle()
    assert yard.endpoints() == {served.id}


def test_no_way_back_onto_a_source_without_a_ready_replica() -> None:
    yard = running(replicas=2)
    yard.deploy(progress_deadline_s=50)
    yard.run_until(lambda: Phase.READY in {each.phase for each in yard.replicas("shop", 2)})
    yard.fates.broken.add(("shop", 1))
    for each in yard.replicas("shop", 1):
        yard.crash(each.id)
    yard.abort("rather not")
    yard.run(5)
    assert yard.weights() == {2: 100}
    assert yard.state(2) is not RevisionState.FAILED
    notes = [each.text for made in yard.plans for each in made.notes]
    assert "no way back: revision 1 has no ready replica, revision 2 has" in notes
    yard.run(100)
    assert (yard.state(2), yard.phases(2), yard.weights()) == (RevisionState.ACTIVE, ["ready", "ready"], {2: 100})


def test_a_target_that_is_half_ready_takes_over_at_the_deadline_when_the_source_is_gone() -> None:
    yard = running(replicas=2)
    yard.deploy(progress_deadline_s=50)
    yard.run_until(lambda: yard.phases(2) == ["ready", "starting"])
    yard.fates.broken |= {("shop", 1), ("shop", 2)}
    for each in yard.replicas("shop", 1):
        yard.crash(each.id)
    yard.run(200)
    assert (phase(yard), yard.state(2)) == (RolloutPhase.DONE, RevisionState.ACTIVE)
    assert "revision 1 has no ready replica" in " ".join(yard.told)
    assert ready_endpoints(yard) == 1


def test_a_last_good_revision_that_crash_loops_is_never_taken_down() -> None:
    yard = running(replicas=1)
    yard.fates.broken.add(("shop", 1))
    only = yard.replicas()[0].id
    yard.crash(only)
    yard.run(2000)
    assert (yard.state(1), yard.endpoints()) == (RevisionState.ACTIVE, {only})
    assert yard.replica(only).crashes > 20
    yard.fates.broken.clear()
    yard.run(100)
    assert yard.phases(1) == ["ready"]


def test_a_new_revision_rescues_a_deployment_whose_active_one_crash_loops() -> None:
    yard = running(replicas=2)
    yard.fates.broken.add(("shop", 1))
    for each in yard.replicas():
        yard.crash(each.id)
    yard.run(100)
    yard.deploy()
    yard.run(60)
    assert (yard.weights(), yard.phases(1), yard.phases(2)) == ({2: 100}, [], ["ready", "ready"])


def test_a_source_that_does_not_come_back_leaves_the_traffic_with_the_target() -> None:
    yard = running(replicas=2, keep="stopped")
    yard.deploy(keep="stopped", progress_deadline_s=50)
    yard.run_until(lambda: phase(yard) is RolloutPhase.SWITCHING)
    yard.fates.broken.add(("shop", 1))
    yard.abort("too late")
    yard.run(200)
    assert (phase(yard), yard.state(2), yard.weights()) == (RolloutPhase.DONE, RevisionState.ACTIVE, {2: 100})
    assert ready_endpoints(yard) == 2


# What the yard's own crash leaves.


@KINDS
@pytest.mark.parametrize("moment", [0.0, 0.5, 2.0, 2.04, 2.06, 4.1, 6.2, 8.0])
def test_a_yard_that_is_killed_at_any_moment_of_a_rollout_finishes_it(kind: str, moment: float) -> None:
    yard = running(replicas=3)
    seen = watch_ready(yard)
    yard.deploy(kind=kind)
    yard.run(moment)
    yard.restart_yard()
    yard.run(60)
    assert (phase(yard), yard.weights(), yard.phases(2)) == (RolloutPhase.DONE, {2: 100}, ["ready"] * 3)
    assert min(seen) == 3


def test_two_deployments_roll_at_the_same_time_and_do_not_mix() -> None:
    yard = running(replicas=2)
    yard.deploy("blog", replicas=2)
    yard.run(30)
    yard.deploy("blog")
    yard.deploy("shop", memory=GIB)
    yard.run(60)
    assert (yard.weights("blog"), yard.weights("shop")) == ({2: 100}, {2: 100})
