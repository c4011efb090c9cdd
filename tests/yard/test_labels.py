"""What containers say of themselves: everything there and back, nothing else believed, and a store made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.errors import YardConflictError, YardError
from dockyard.spec.deployment import Deployment, Limits, Mount
from dockyard.yard.labels import MEMORY, REPLICA, SETTINGS, WANTED, ReplicaLabels, labels_of, read_labels
from dockyard.yard.rebuild import FoundReplica, rebuild
from dockyard.yard.records import NewRevision, Origin
from dockyard.yard.state import Advance, Phase, RevisionState, RolloutPhase
from dockyard.yard.store import Store
from tests.yard.conftest import ADA, revision

DIGEST = "sha256:" + "a" * 64


def found(store, replica, name, number, phase=Phase.READY, wanted=2):
    labels = labels_of(store.yard, replica, store.revision(name, number), wanted)
    return FoundReplica(read_labels(labels, replica), "runc", f"id-{replica}", Path("/run") / replica, phase)


@given(
    replicas=st.integers(0, 1000),
    environment=st.dictionaries(st.from_regex(r"[A-Z_]{1,10}", fullmatch=True), st.text()),
    why=st.text(),
    created=st.floats(0, 4e9),
)
def test_labels_say_everything_there_and_back(tmp_path_factory, replicas, environment, why, created):
    asked = Deployment(
        name="iris",
        image=f"iris@{DIGEST}",
        replicas=replicas,
        environment=environment,
        mounts=(Mount(source="/a", target="/b"),),
        resources=Limits(memory="1GiB"),
    )
    store = Store.open(tmp_path_factory.mktemp("yard") / "yard.db", clock=lambda: created)
    record = store.add_revision(NewRevision(asked, DIGEST, "iris:1", 5), Origin("ada", why))
    labels = labels_of(store.yard, "iris-1", record, 3)
    assert all(isinstance(value, str) for value in labels.values())
    assert read_labels(labels, "iris-1") == ReplicaLabels(
        store.yard, "iris-1", "iris", 1, asked, DIGEST, "iris:1", 5, Origin("ada", why), created, 3
    )
    store.close()


def test_a_container_that_is_no_replica_is_none(store):
    labels = labels_of(store.yard, "iris-1", store.add_revision(revision(), ADA), 1)
    assert read_labels({}, "x") is None
    assert read_labels({"dev.dockyard.managed": "1"}, "x") is None
    assert read_labels(labels, "somebody-else") is None, "labels baked into an image do not make a replica"


@pytest.mark.parametrize(
    "change",
    [
        {SETTINGS: "{"},
        {SETTINGS: '{"name":"other","image":"x"}'},
        {SETTINGS: '{"name":"iris","image":"x","unknown":1}'},
        {MEMORY: "much"},
        {WANTED: "-1"},
        {"dev.dockyard.yard.revision": "0"},
        {"dev.dockyard.yard.image-digest": "sha256:zz"},
        {"dev.dockyard.yard.deployment": None},
    ],
)
def test_labels_that_are_wrong_are_told(store, change):
    labels = {**labels_of(store.yard, "iris-1", store.add_revision(revision(), ADA), 1), **change}
    labels = {name: value for name, value in labels.items() if value is not None}
    with pytest.raises(YardError, match="labels of container iris-1"):
        read_labels(labels, labels[REPLICA])


@pytest.fixture
def empty(tmp_path, clock):
    store = Store.open(tmp_path / "new" / "yard.db", clock=clock)
    yield store
    store.close()


def test_a_lost_store_is_made_anew_from_containers(store, empty):
    for content in ("one", "two"):
        store.add_revision(revision(content=content, replicas=2), ADA)
        store.begin_rollout("iris", store.revisions("iris")[0].number, ADA)
        store.advance(Advance("iris", RolloutPhase.DONE))
    store.add_revision(revision("wine"), Origin("ci"))
    replicas = [
        found(store, "iris-1-a", "iris", 1, Phase.FROZEN),
        found(store, "iris-2-a", "iris", 2),
        found(store, "iris-2-b", "iris", 2, Phase.CRASHED),
        found(store, "wine-1-a", "wine", 1, Phase.STARTING, wanted=1),
    ]
    assert rebuild(empty, replicas, {"iris": 2}) == ("iris", "wine")
    assert empty.yard == store.yard
    iris, wine = empty.snapshot()
    assert (iris.deployment.active, iris.deployment.wanted, wine.deployment.active) == (2, 2, 1)
    assert [iris.revisions[n].state for n in (1, 2)] == [RevisionState.KEPT, RevisionState.ACTIVE]
    assert iris.revisions[2].settings == store.revision("iris", 2).settings
    assert iris.revisions[2].origin == ADA
    assert [(one.id, one.phase, one.container) for one in iris.replicas] == [
        ("iris-1-a", Phase.FROZEN, "id-iris-1-a"),
        ("iris-2-a", Phase.READY, "id-iris-2-a"),
        ("iris-2-b", Phase.CRASHED, "id-iris-2-b"),
    ]
    assert empty.add_revision(revision(), ADA).number == 3


@pytest.mark.parametrize(("active", "expected"), [({}, 2), ({"iris": 1}, 1), ({"iris": 7}, 2)])
def test_without_the_gateways_word_the_newest_that_serves_has_the_traffic(store, empty, active, expected):
    for content in ("one", "two", "three"):
        store.add_revision(revision(content=content), ADA)
    phases = {1: Phase.READY, 2: Phase.READY, 3: Phase.FROZEN}
    rebuild(empty, [found(store, f"r{n}", "iris", n, phase) for n, phase in phases.items()], active)
    assert empty.deployment("iris").active == expected
    states = {one.number: one.state for one in empty.revisions("iris")}
    assert states[3] is RevisionState.PENDING
    assert states[expected] is RevisionState.ACTIVE


def test_a_rebuild_refuses_a_store_that_has_something_and_containers_of_several_yards(store, empty):
    store.add_revision(revision(), ADA)
    one = found(store, "a", "iris", 1)
    with pytest.raises(YardConflictError, match="already has deployments"):
        rebuild(store, [one], {})
    other = replace(one, labels=replace(one.labels, yard="0" * 16, replica="b"))
    with pytest.raises(YardConflictError, match="several yards"):
        rebuild(empty, [one, other], {})
    assert empty.deployments() == ()
