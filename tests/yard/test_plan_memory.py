"""When memory does not fit old and new together: reclaim, hold and swap, or refuse with the figures."""

from __future__ import annotations

import pytest

from dockyard.spec.deployment import Probes, Strategy
from dockyard.yard.plan import plan
from dockyard.yard.state import DeploymentState, Phase, Replica, Revision, RevisionState, RolloutPhase, Stop, World
from tests.yard.promises import endpoints_of
from tests.yard.simulation import GIB, Delays, Yard, running
from tests.yard.test_plan_rollout import KINDS, phase, watch_ready


@KINDS
def test_a_single_replica_is_swapped_and_requests_wait_at_the_new_ones_socket(kind: str) -> None:
    yard = running(replicas=1, memory=GIB)
    old = yard.replicas()[0].id
    yard.delays = Delays(accept=1.0, request=1.0, stop=1.0, start=4.0)
    yard.deploy(kind=kind)
    yard.settle()
    new = next(each for each in yard.replicas() if each.id != old)
    assert (new.phase, yard.endpoints()) == (Phase.CREATED, {new.id})
    assert yard.replica(old).phase is Phase.DRAINING
    yard.run(2.9)
    assert yard.replica(new.id).phase is Phase.CREATED
    yard.run(0.2)
    assert [str(each.phase) for each in yard.replicas()] == ["starting"]
    assert yard.endpoints() == {new.id}
    yard.run(10)
    assert (phase(yard), yard.phases(2), yard.weights()) == (RolloutPhase.DONE, ["ready"], {2: 100})
    assert "memory does not fit both" in " ".join(yard.told)


@KINDS
def test_a_swap_needs_no_surge(kind: str) -> None:
    yard = running(replicas=1, memory=GIB)
    yard.deploy(kind=kind, max_surge=0, max_unavailable=1)
    yard.run(30)
    assert (phase(yard), yard.phases(2)) == (RolloutPhase.DONE, ["ready"])


@KINDS
def test_a_swap_that_fails_starts_the_old_one_again_the_same_way(kind: str) -> None:
    yard = running(replicas=1, memory=GIB)
    yard.fates.broken.add(("shop", 2))
    yard.deploy(kind=kind)
    yard.settle()
    nowhere: list[float] = []
    yard.judges.append(lambda world, plan, now: nowhere.extend([] if endpoints_of(plan.traffic["shop"]) else [now]))
    yard.run_until(lambda: phase(yard) is RolloutPhase.FAILED)
    assert yard.phases(1) == ["ready"], "a rollout has failed only when its source serves again"
    yard.run(60)
    assert (yard.state(2), yard.weights()) == (RevisionState.FAILED, {1: 100})
    assert (yard.phases(1), yard.phases(2), yard.weights()) == (["ready"], [], {1: 100})
    assert not nowhere, "at these times requests had nowhere to wait"


def test_several_replicas_are_swapped_one_by_one_and_the_others_serve_meanwhile() -> None:
    yard = running(replicas=3, memory=3 * GIB)
    seen = watch_ready(yard)
    yard.deploy()
    yard.run(60)
    assert (phase(yard), yard.phases(2), yard.phases(1)) == (RolloutPhase.DONE, ["ready"] * 3, [])
    assert min(seen) == 2


def test_blue_green_swaps_all_at_once() -> None:
    yard = running(replicas=3, memory=4 * GIB)
    yard.deploy(kind="blue-green")
    shares = []
    yard.judges.append(lambda world, plan, now: shares.append(dict(plan.traffic["shop"].weights)))
    yard.run(60)
    assert (phase(yard), yard.phases(2)) == (RolloutPhase.DONE, ["ready"] * 3)
    assert all(len(each) == 1 for each in shares)


def test_a_surge_that_fits_is_used_and_nothing_is_held() -> None:
    yard = running(replicas=3, memory=4 * GIB)
    seen = watch_ready(yard)
    yard.deploy()
    yard.run(60)
    assert (phase(yard), yard.phases(2)) == (RolloutPhase.DONE, ["ready"] * 3)
    assert min(seen) == 3
    assert "memory does not fit" not in " ".join(yard.told)


def test_a_surge_that_fits_in_part_is_used_in_part() -> None:
    yard = running(replicas=3, memory=4 * GIB)
    seen = watch_ready(yard)
    yard.deploy(max_surge=2)
    yard.run(60)
    assert (phase(yard), yard.phases(2)) == (RolloutPhase.DONE, ["ready"] * 3)
    assert min(seen) == 3


@KINDS
def test_never_hold_fails_the_rollout_at_once_with_the_figures(kind: str) -> None:
    yard = running(replicas=1, memory=GIB)
    yard.deploy(kind=kind, hold_and_swap="never")
    yard.run(1)
    assert (phase(yard), yard.phases(1), yard.weights()) == (RolloutPhase.FAILED, ["ready"], {1: 100})
    assert "needs 1.1 GB of memory beside what runs, 0 B of 1.1 GB are free" in yard.told[-1]


def test_a_lack_of_memory_does_not_send_the_traffic_back_to_a_source_that_is_ill() -> None:
    yard = running(replicas=2, memory=3 * GIB)
    yard.deploy(hold_and_swap="never")
    yard.run_until(lambda: yard.phases(2) == ["ready"])
    for each in yard.replicas("shop", 1):
        yard.crash(each.id)
    yard.fates.broken.add(("shop", 1))
    yard.memory = 2 * GIB
    yard.run(30)
    assert (yard.weights(), yard.state(2)) == ({2: 100}, RevisionState.PENDING)
    notes = {each.text for made in yard.plans for each in made.notes}
    assert "revision 2 lacks 1.1 GB of memory: 0 B of 2.1 GB are free" in notes


def test_a_preview_needs_both_at_once_and_is_refused_when_they_do_not_fit() -> None:
    yard = running(replicas=1, memory=GIB)
    yard.deploy(kind="blue-green", preview=True)
    yard.run(1)
    assert (phase(yard), yard.phases(1)) == (RolloutPhase.FAILED, ["ready"])


@KINDS
def test_a_revision_that_does_not_fit_even_alone_fails_and_nothing_is_stopped_for_it(kind: str) -> None:
    yard = running(replicas=2, memory=3 * GIB)
    yard.deploy(kind=kind, memory=2 * GIB)
    yard.run(1)
    assert (phase(yard), yard.phases(1), yard.phases(2)) == (RolloutPhase.FAILED, ["ready", "ready"], [])
    assert "2 replicas of revision 2 need 4.3 GB of memory, there are 3.2 GB" in yard.told[-1]


def test_a_first_revision_that_does_not_fit_fails_with_the_figures() -> None:
    yard = Yard(memory=GIB)
    yard.deploy(replicas=2)
    yard.run(1)
    assert (phase(yard), yard.state(1)) == (RolloutPhase.FAILED, RevisionState.FAILED)
    assert "2 replicas of revision 1 need 2.1 GB" in yard.told[-1]


@pytest.mark.parametrize("keep", ["warm", "frozen"])
def test_kept_replicas_give_way_before_anything_is_held(keep: str) -> None:
    yard = running(replicas=1, memory=2 * GIB, keep=keep)
    for number in (2, 3):
        seen = watch_ready(yard)
        yard.deploy(keep=keep)
        yard.run(30)
        assert (phase(yard), yard.weights()) == (RolloutPhase.DONE, {number: 100})
        assert min(seen) == 1
    assert yard.phases(1) == []
    assert len(yard.phases(2)) == 1


@pytest.mark.parametrize("keep", ["warm", "frozen"])
def test_what_was_released_in_a_rollout_gives_way_to_the_rest_of_it(keep: str) -> None:
    yard = running(replicas=3, memory=4 * GIB)
    seen = watch_ready(yard)
    yard.deploy(keep=keep)
    yard.run(60)
    assert (phase(yard), len(yard.phases(2)), len(yard.phases(1))) == (RolloutPhase.DONE, 3, 1)
    assert min(seen) == 3


def test_memory_for_which_requests_wait_is_not_given_to_others() -> None:
    yard = Yard(memory=2 * GIB)
    yard.deploy("blog", replicas=1)
    yard.deploy("shop", replicas=1)
    yard.run(30)
    yard.deploy("shop")
    yard.settle()
    yard.scale(2, "blog")
    yard.run(10)
    assert [str(each.phase) for each in yard.replicas("shop")] == ["ready"]
    assert [str(each.phase) for each in yard.replicas("blog")] == ["ready"]


def test_the_memory_of_a_source_that_was_stopped_for_a_smaller_revision_is_kept_for_its_way_back() -> None:
    yard = Yard(memory=GIB)
    yard.deploy("blog", replicas=0, memory=GIB // 2)
    yard.deploy("shop", replicas=1)
    yard.run(30)
    yard.fates.broken.add(("shop", 2))
    yard.deploy("shop", memory=GIB // 2)
    yard.run_until(lambda: yard.phases(2) == ["starting"] and not yard.phases(1))
    yard.scale(1, "blog")
    yard.run(60)
    assert (yard.phases(1), yard.weights(), yard.replicas("blog")) == (["ready"], {1: 100}, [])


def test_a_created_replica_gives_its_claim_up_once_others_serve_and_there_is_no_memory_for_it() -> None:
    revision = Revision(1, RevisionState.ACTIVE, GIB, Strategy(), Probes())
    replicas = (Replica("a", 1, Phase.READY, 0.0, routed=True), Replica("b", 1, Phase.CREATED, 0.0))
    found = plan(World((DeploymentState("shop", 2, 1, {1: revision}, replicas),), GIB), 0.0)
    assert [step.replica for step in found.steps if isinstance(step, Stop)] == ["b"]


def test_a_created_replica_takes_the_memory_of_kept_ones() -> None:
    strategy, probes = Strategy(), Probes()
    revisions = {
        1: Revision(1, RevisionState.KEPT, GIB, strategy, probes),
        2: Revision(2, RevisionState.ACTIVE, GIB, strategy, probes),
    }
    replicas = (Replica("a", 1, Phase.FROZEN, 0.0), Replica("b", 2, Phase.CREATED, 0.0))
    found = plan(World((DeploymentState("shop", 1, 2, revisions, replicas),), GIB), 0.0)
    assert [step.replica for step in found.steps if isinstance(step, Stop)] == ["a"]
    assert found.traffic["shop"].endpoints == {2: ("b",)}


def test_replicas_that_are_rolled_back_to_are_not_taken_for_leaving_although_their_revision_failed_once() -> None:
    yard = running(replicas=1, memory=3 * GIB)
    yard.deploy(kind="blue-green", preview=True)
    yard.run(10)
    yard.abort()
    yard.run(10)
    yard.roll_to(2)
    yard.run(10)
    assert (yard.state(2), yard.phases(2), phase(yard)) == (RevisionState.FAILED, ["ready"], RolloutPhase.PREVIEW)
    yard.deploy("blog", replicas=2)
    yard.run(1)
    assert yard.state(1, "blog") is RevisionState.FAILED
    assert "there are 1.1 GB" in yard.told[-1]


def test_draining_the_old_one_does_not_count_against_the_progress_of_a_swap() -> None:
    yard = running(replicas=1, memory=GIB)
    yard.delays = Delays(request=25.0, start=2.0)
    yard.deploy(progress_deadline_s=5)
    yard.run(60)
    assert (phase(yard), yard.phases(2)) == (RolloutPhase.DONE, ["ready"])


def test_a_yard_killed_in_the_middle_of_a_swap_finishes_it() -> None:
    for moment in (0.0, 0.1, 0.5, 1.0, 2.0, 3.0):
        yard = running(replicas=1, memory=GIB)
        yard.deploy()
        yard.run(moment)
        yard.restart_yard()
        yard.run(60)
        assert (phase(yard), yard.phases(2), yard.weights()) == (RolloutPhase.DONE, ["ready"], {2: 100})
