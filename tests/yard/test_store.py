"""The store: what is written stays, what does not go together is refused, revisions never change."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from dockyard.errors import StoreError, UnknownInYardError, YardConflictError
from dockyard.spec.deployment import Probes, Strategy
from dockyard.yard.clock import steady_clock
from dockyard.yard.database import Database
from dockyard.yard.events import KEPT
from dockyard.yard.records import Origin
from dockyard.yard.schema import MIGRATIONS
from dockyard.yard.state import Advance, Phase, Replica, Revision, RevisionState, Rollout, RolloutPhase
from dockyard.yard.store import Store
from tests.yard.conftest import ADA, Clock, revision

FOLDER = Path("/run/dockyard/iris-1")


def roll_out(store, name="iris", content="one"):
    number = store.add_revision(revision(name, content=content), ADA).number
    store.begin_rollout(name, number, ADA)
    store.advance(Advance(name, RolloutPhase.DONE))
    return number


def test_everything_is_there_again_when_the_store_is_opened_again(path, store, clock):
    roll_out(store)
    second = store.add_revision(revision(content="two", replicas=3, environment={"A": "b"}), ADA)
    rollout = store.begin_rollout("iris", 2, Origin("ci"))
    store.add_replica("iris-1-a", "iris", 1, engine="runc", folder=FOLDER)
    store.set_container("iris-1-a", "c0ffee")
    clock.time += 5
    store.set_phase("iris-1-a", Phase.CRASHED, crashes=2)
    store.advance(Advance("iris", RolloutPhase.SWITCHING, "it is ready", holding=True))
    store.set_note("gateway.version", "17")
    about = {"deployment": "iris", "revision": 1, "replica": "iris-1-a"}
    event = store.events.add("replica.crashed", "iris-1-a ended with 137", **about, reason="memory", detail="OOM")
    yard, snapshot, events = store.yard, store.snapshot(), store.events.newest()
    assert store.fresh
    store.close()
    again = Store.open(path, clock=clock)
    assert not again.fresh
    assert (again.yard, again.snapshot(), again.events.newest()) == (yard, snapshot, events)
    assert events == (event,)
    assert (event.revision, event.reason) == (1, "memory")
    assert again.note("gateway.version") == "17"
    (one,) = again.snapshot()
    assert (one.deployment.wanted, one.deployment.active) == (3, 1)
    assert one.revisions[2] == second
    assert one.revisions[2].settings.environment == {"A": "b"}
    (replica,) = one.replicas
    assert (replica.phase, replica.crashes, replica.container, replica.folder) == (
        Phase.CRASHED,
        2,
        "c0ffee",
        FOLDER,
    )
    assert one.rollout.id == rollout.id
    assert (one.rollout.phase, one.rollout.holding, one.rollout.phase_why) == (
        RolloutPhase.SWITCHING,
        True,
        "it is ready",
    )
    assert one.rollout.origin == Origin("ci")
    again.close()


def test_events_from_before_they_had_reasons_are_told_without_one(path, clock):
    before = Database.open(path, migrations=MIGRATIONS[:2])
    before.insert("notes", name="yard", value="c0ffee")
    before.insert(
        "events", time=1.0, deployment="iris", replica="a", kind="replica.crashed", text="it ended", detail="x"
    )
    before.close()
    store = Store.open(path, clock=clock)
    (event,) = store.events.newest()
    store.close()
    assert (event.text, event.detail, event.revision, event.reason) == ("it ended", "x", None, "")


def test_records_become_what_the_planner_decides_on(store, clock):
    store.add_revision(revision(strategy=Strategy(max_surge=2), probes=Probes(live_failures=9)), ADA)
    now = clock.time
    assert store.begin_rollout("iris", 1, ADA).planning() == Rollout(1, None, 1, RolloutPhase.STARTING, now, now)
    store.add_replica("a", "iris", 1, engine="runc", folder=FOLDER)
    assert store.replica("a").planning(routed=True, in_flight=3, routed_since=4.0) == Replica(
        "a", 1, Phase.STARTING, now, routed=True, in_flight=3, routed_since=4.0
    )
    assert store.revision("iris", 1).planning() == Revision(
        1, RevisionState.PENDING, 1 << 30, Strategy(max_surge=2), Probes(live_failures=9), now
    )


def test_a_finished_rollout_moves_the_traffic_and_keeps_the_old_revision(store):
    roll_out(store)
    roll_out(store, content="two")
    assert store.deployment("iris").active == 2
    assert [one.state for one in store.revisions("iris")] == [RevisionState.ACTIVE, RevisionState.KEPT]
    assert store.rollout("iris") is None
    newest, first = store.rollouts("iris")
    assert (newest.source, newest.target, first.source) == (1, 2, None)
    assert newest.ended is not None
    assert store.set_receipt(newest.id, {"dropped": 0}).receipt == {"dropped": 0}


def test_a_failed_rollout_leaves_the_traffic_where_it_was(store):
    roll_out(store)
    store.add_revision(revision(content="two"), ADA)
    store.begin_rollout("iris", 2, ADA)
    store.abort("iris", "the graphs look wrong")
    assert store.abort("iris", "another reason").aborted == "the graphs look wrong"
    store.advance(Advance("iris", RolloutPhase.ABORTING))
    store.advance(Advance("iris", RolloutPhase.FAILED, "aborted by ada"))
    assert store.deployment("iris").active == 1
    failed = store.revision("iris", 2)
    assert (failed.state, failed.state_why) == (RevisionState.FAILED, "aborted by ada")
    assert store.revision("iris", 1).state is RevisionState.ACTIVE


def test_a_failed_revision_is_not_kept_when_another_takes_over(store):
    roll_out(store)
    store.mark("iris", 1, RevisionState.FAILED, "it crash-loops")
    roll_out(store, content="two")
    assert store.revision("iris", 1).state is RevisionState.FAILED


def test_a_phase_that_stays_does_not_begin_again_and_progress_is_noted(store, clock):
    store.add_revision(revision(), ADA)
    began = store.begin_rollout("iris", 1, ADA)
    clock.time += 10
    same = store.advance(Advance("iris", RolloutPhase.STARTING, "2 of 3 ready", progressed=True))
    assert (same.since, same.progress, same.phase_why) == (began.since, clock.time, "2 of 3 ready")
    clock.time += 10
    assert store.advance(Advance("iris", RolloutPhase.STARTING)).progress == clock.time - 10
    replica = store.add_replica("a", "iris", 1, engine="runc", folder=FOLDER)
    clock.time += 1
    assert store.set_phase("a", Phase.STARTING, crashes=1).since == replica.since
    assert store.set_phase("a", Phase.READY).since == clock.time


def test_a_second_rollout_is_refused_and_names_the_one_under_way(store):
    store.add_revision(revision(), ADA)
    store.begin_rollout("iris", 1, ADA)
    with pytest.raises(YardConflictError, match=r"revision 1 \(rollout 1\)"):
        store.begin_rollout("iris", 1, ADA)


def test_what_is_unknown_is_named(store):
    roll_out(store)
    for call, told in (
        (lambda: store.deployment("nobody"), "no deployment 'nobody'"),
        (lambda: store.revision("iris", 7), "iris has no revision 7"),
        (lambda: store.begin_rollout("iris", 7, ADA), "iris has no revision 7"),
        (lambda: store.replica("x"), "no replica 'x'"),
        (lambda: store.scale("nobody", 1), "no deployment"),
        (lambda: store.set_phase("x", Phase.READY), "no replica"),
    ):
        with pytest.raises(UnknownInYardError, match=told):
            call()
    for call in (lambda: store.promote("iris"), lambda: store.abort("iris", "")):
        with pytest.raises(YardConflictError, match="no rollout of iris is under way"):
            call()


def test_a_replica_of_a_taken_id_is_refused(store):
    roll_out(store)
    store.add_replica("a", "iris", 1, engine="runc", folder=FOLDER)
    with pytest.raises(YardConflictError, match="replica 'a' already"):
        store.add_replica("a", "iris", 1, engine="runc", folder=FOLDER)


def test_a_deleted_deployment_goes_when_its_replicas_are_gone_and_its_history_stays(store):
    roll_out(store)
    store.add_replica("a", "iris", 1, engine="runc", folder=FOLDER)
    with pytest.raises(YardConflictError, match="was not deleted"):
        store.forget("iris")
    assert store.delete("iris").deleted is not None
    for call in (lambda: store.scale("iris", 2), lambda: store.add_revision(revision(), ADA)):
        with pytest.raises(YardConflictError, match="being deleted"):
            call()
    with pytest.raises(YardConflictError, match="still has replicas"):
        store.forget("iris")
    store.remove_replica("a")
    store.forget("iris")
    assert store.deployments() == store.snapshot() == ()
    assert [one.state for one in store.revisions("iris")] == [RevisionState.RETIRED]
    again = store.add_revision(revision(replicas=4), ADA)
    assert again.number == 2
    assert store.deployment("iris").wanted == 4
    assert store.deployment("iris").deleted is None


@pytest.mark.parametrize("column", ["settings", "image_digest", "image_name", "memory", "who", "why", "created"])
def test_a_revision_never_changes(path, store, column):
    roll_out(store)
    with sqlite3.connect(path) as other, pytest.raises(sqlite3.IntegrityError, match="never changes"):
        other.execute(f"UPDATE revisions SET {column} = {column} || 'x'")
    other.close()


def test_a_revision_in_use_is_never_removed(store):
    roll_out(store)
    with pytest.raises(StoreError, match="never removed"):
        store.database.execute("DELETE FROM revisions")
    assert store.revision("iris", 1)


def test_a_replica_of_no_revision_is_not_kept(store):
    roll_out(store)
    with pytest.raises(UnknownInYardError):
        store.add_replica("a", "iris", 2, engine="runc", folder=FOLDER)


def test_changes_made_together_are_all_there_or_none(store):
    roll_out(store)

    def fails():
        with store.together():
            store.scale("iris", 9)
            store.add_revision(revision(content="two"), ADA)
            store.events.add("x", "y")
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError):
        fails()
    assert store.deployment("iris").wanted == 1
    assert len(store.revisions("iris")) == 1
    assert store.events.newest() == ()


def test_a_snapshot_leaves_out_what_no_longer_matters(store):
    for content in ("one", "two", "three"):
        roll_out(store, content=content)
    store.mark("iris", 1, RevisionState.RETIRED)
    store.mark("iris", 2, RevisionState.RETIRED)
    store.add_replica("a", "iris", 2, engine="runc", folder=FOLDER)
    assert list(store.snapshot()[0].revisions) == [2, 3]
    store.begin_rollout("iris", 1, ADA)
    assert sorted(store.snapshot()[0].revisions) == [1, 2, 3]


def test_only_the_newest_events_are_kept(store, monkeypatch):
    with store.together():
        for number in range(KEPT + 5):
            store.events.add("tick", str(number), deployment="iris" if number % 2 else "")
    events = store.events.after(0, limit=KEPT * 2)
    assert [len(events), events[0].text, events[-1].text] == [KEPT, "5", str(KEPT + 4)]
    assert [one.text for one in store.events.newest(deployment="iris", limit=2)] == [str(KEPT + 1), str(KEPT + 3)]
    assert store.events.after(events[-2].sequence) == (events[-1],)


def test_the_text_of_an_event_is_bounded_and_keeps_the_last_lines_of_a_log(store):
    event = store.events.add("x", "y" * 1_000_000, detail="a" * 1_000_000 + "the end")
    assert len(event.text) == 2_000
    assert event.detail.endswith("the end")
    assert store.events.newest() == (event,)


def test_order_holds_when_the_wall_clock_jumps_back(store, clock):
    first = store.events.add("x", "first")
    clock.time -= 86_400
    second = store.events.add("x", "second")
    assert second.time < first.time
    assert store.events.newest() == (first, second)
    roll_out(store)
    clock.time -= 86_400
    roll_out(store, content="two")
    assert [one.number for one in store.revisions("iris")] == [2, 1]
    assert [one.id for one in store.rollouts("iris")] == [2, 1]


def test_the_yards_clock_does_not_jump_with_the_wall():
    wall, running = Clock(1000.0), Clock(50.0)
    now = steady_clock(0.0, wall, running)
    assert now() == 1000.0
    wall.time, running.time = 10.0, 53.0
    assert now() == 1003.0


def test_after_a_restart_the_clock_is_not_before_what_was_stored(path, clock):
    clock.time = 4_000_000_000.0
    store = Store.open(path, clock=clock)
    roll_out(store)
    store.events.add("x", "y")
    store.close()
    again = Store.open(path)
    assert again.now() >= 4_000_000_000.0
    again.close()


class StoreMachine(RuleBasedStateMachine):
    """Random changes: what the store says is what a plain dictionary says, also after it was closed and opened."""

    @initialize()
    def make(self):
        self.clock, self.wanted, self.active, self.open = Clock(), {}, {}, {}
        self.store = Store.open(self.folder() / "yard.db", clock=self.clock)

    @rule(name=st.sampled_from("abc"), replicas=st.integers(0, 5))
    def deploy(self, name, replicas):
        made = self.store.add_revision(revision(name, replicas=replicas), ADA)
        self.wanted[name] = replicas
        if name in self.open:
            with pytest.raises(YardConflictError):
                self.store.begin_rollout(name, made.number, ADA)
        else:
            self.store.begin_rollout(name, made.number, ADA)
            self.open[name] = made.number

    @rule(name=st.sampled_from("abc"), phase=st.sampled_from(RolloutPhase))
    def advance(self, name, phase):
        if name not in self.open:
            return
        self.store.advance(Advance(name, phase))
        if phase in {RolloutPhase.DONE, RolloutPhase.FAILED}:
            number = self.open.pop(name)
            self.active[name] = number if phase is RolloutPhase.DONE else self.active.get(name)

    @rule(by=st.floats(-1e6, 1e6))
    def turn_the_clock(self, by):
        self.clock.time += by

    @rule()
    def restart(self):
        path = self.store.database.path
        self.store.close()
        self.store = Store.open(path, clock=self.clock)

    @invariant()
    def holds(self):
        snapshot = {one.deployment.name: one for one in self.store.snapshot()}
        assert {name: one.deployment.wanted for name, one in snapshot.items()} == self.wanted
        for name, one in snapshot.items():
            assert one.deployment.active == self.active.get(name)
            assert (one.rollout.target if one.rollout else None) == self.open.get(name)
            states = [each.state for each in self.store.revisions(name)]
            assert states.count(RevisionState.ACTIVE) <= 1

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()


def test_whatever_is_asked_the_store_says_what_was_written(tmp_path_factory):
    class Here(StoreMachine):
        def folder(self):
            return tmp_path_factory.mktemp("store")

    run_state_machine_as_test(Here, settings=hypothesis_settings(max_examples=15, stateful_step_count=20))
