"""What runs otherwise than it was asked for is told, one kind of difference at a time, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from dockyard.engines.base import Container, Ending, State
from dockyard.errors import EngineError
from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, UnixAddress
from dockyard.oci.digest import digest_of
from dockyard.spec.status import DriftItem
from dockyard.yard import usage
from dockyard.yard.drift import drift_of
from dockyard.yard.labels import IMAGE_DIGEST, SETTINGS, YARD, labels_of
from dockyard.yard.parts import Parts
from dockyard.yard.records import encode_settings
from dockyard.yard.state import Advance, Phase, RolloutPhase, Traffic
from dockyard.yard.store import Store
from tests.yard.conftest import ADA, revision
from tests.yard.told import ToldEngine, ToldGateway, parts_of

NAME = "iris-1-a"
FOLDER = Path("/run/dockyard") / NAME


@pytest.fixture
def engine() -> ToldEngine:
    return ToldEngine("runc")


@pytest.fixture
def parts(store: Store, tmp_path: Path, engine: ToldEngine) -> Iterator[Parts]:
    """A yard with one replica, whose container runs as it should; the gateway has accepted that."""
    made = parts_of(store, tmp_path, ToldGateway(), engine, ToldEngine("docker"))
    store.add_revision(revision(), ADA)
    store.begin_rollout("iris", 1, ADA)
    store.advance(Advance("iris", RolloutPhase.DONE))
    store.add_replica(NAME, "iris", 1, engine="runc", folder=FOLDER)
    store.set_phase(NAME, Phase.READY)
    engine.containers = [container(store)]
    made.reconciler.traffic = {"iris": Traffic({1: 100, 2: 0}, {1: (NAME,)})}
    made.reconciler.routed.accept(accepted({1: 100}), 1.0)
    yield made
    made.looking.close()


def container(store: Store, state: State = State.RUNNING, **labels: str) -> Container:
    """The replica's container; `labels` are otherwise than they should be."""
    own = labels_of(store.yard, NAME, store.revision("iris", 1), 1)
    ending = Ending(1) if state is State.EXITED else None
    return Container("c0ffee", NAME, "iris:one", state, ending, None, None, None, own | labels, "runc")


def accepted(weights: dict[int, int]) -> Snapshot:
    endpoints = {number: (Endpoint(NAME, UnixAddress("/run/a")),) for number in weights}
    return Snapshot(services=(Service(name="iris", weights=weights, endpoints=endpoints),))


async def drift(parts: Parts) -> tuple[DriftItem, ...]:
    return await drift_of(parts.store.snapshot(), parts)


async def only(parts: Parts) -> DriftItem:
    """The one thing that differs."""
    (item,) = await drift(parts)
    assert item.deployment == "iris"
    return item


async def test_nothing_is_told_of_what_runs_as_it_was_asked_for(parts: Parts) -> None:
    assert await drift(parts) == ()


async def test_fewer_or_more_ready_replicas_than_wanted(parts: Parts) -> None:
    parts.store.scale("iris", 3)
    item = await only(parts)
    assert (item.what, item.replica, item.asked, item.found) == ("replicas", "", "3 ready", "1 ready")
    parts.store.scale("iris", 0)
    assert (await only(parts)).asked == "0 ready"


async def test_replicas_that_a_rollout_or_a_deletion_moves_are_no_drift(parts: Parts) -> None:
    parts.store.add_revision(revision(content="two", replicas=3), ADA)
    parts.store.begin_rollout("iris", 2, ADA)
    assert await drift(parts) == ()
    parts.store.advance(Advance("iris", RolloutPhase.FAILED))
    assert [each.what for each in await drift(parts)] == ["replicas"]
    parts.store.delete("iris")
    assert await drift(parts) == ()


@pytest.mark.parametrize(
    ("phase", "state", "asked", "found"),
    [
        (Phase.READY, None, "running", "no container"),
        (Phase.READY, State.EXITED, "running", "exited"),
        (Phase.READY, State.FROZEN, "running", "frozen"),
        (Phase.DRAINING, State.EXITED, "running", "exited"),
        (Phase.FROZEN, State.RUNNING, "frozen", "running"),
    ],
)
async def test_a_container_that_is_not_in_the_state_of_its_replica(
    parts: Parts, engine: ToldEngine, phase: Phase, state: State | None, asked: str, found: str
) -> None:
    parts.store.set_phase(NAME, phase)
    engine.containers = [] if state is None else [container(parts.store, state)]
    (item,) = [each for each in await drift(parts) if each.what != "replicas"]
    assert (item.what, item.replica, item.asked, item.found) == ("container", NAME, asked, found)
    assert item.mend


@pytest.mark.parametrize("phase", [Phase.CREATED, Phase.STARTING, Phase.CRASHED, Phase.FREEZING])
async def test_a_replica_on_its_way_is_no_drift_whatever_its_container_does(
    parts: Parts, engine: ToldEngine, phase: Phase
) -> None:
    parts.store.set_phase(NAME, phase)
    engine.containers = []
    assert [each.what for each in await drift(parts)] == ["replicas"]


async def test_a_container_of_another_yard_is_not_the_replica_s(parts: Parts, engine: ToldEngine) -> None:
    engine.containers = [container(parts.store, **{YARD: "another"})]
    assert (await only(parts)).found == "no container"


async def test_a_container_with_another_image(parts: Parts, engine: ToldEngine) -> None:
    other = digest_of(b"another")
    engine.containers = [container(parts.store, **{IMAGE_DIGEST: other})]
    item = await only(parts)
    assert (item.what, item.replica, item.found) == ("image", NAME, other)
    assert item.asked == parts.store.revision("iris", 1).image_digest


async def test_a_container_with_other_settings(parts: Parts, engine: ToldEngine) -> None:
    asked = parts.store.revision("iris", 1).settings
    other = encode_settings(msgspec.structs.replace(asked, environment={"THRESHOLD": "0.9"}))
    engine.containers = [container(parts.store, **{SETTINGS: other})]
    item = await only(parts)
    assert (item.what, item.replica, item.asked) == ("settings", NAME, "revision 1")


@pytest.mark.parametrize(
    ("now", "found"), [("3221225472", "3221225472 bytes of memory"), ("max", "no limit of memory")]
)
async def test_a_memory_limit_that_somebody_changed(
    parts: Parts, engine: ToldEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: str, found: str
) -> None:
    monkeypatch.setattr(usage, "groups_of", lambda pid: {"": tmp_path} if pid == 4711 else {})
    engine.containers = [replace(container(parts.store), pid=4711)]
    (tmp_path / "memory.max").write_text(f"{1 << 30}\n")
    assert await drift(parts) == ()
    (tmp_path / "memory.max").write_text(f"{now}\n")
    item = await only(parts)
    assert (item.what, item.replica, item.asked, item.found) == ("limits", NAME, "1073741824 bytes of memory", found)


async def test_a_gateway_that_routes_otherwise_than_planned_and_why(parts: Parts) -> None:
    parts.reconciler.routed.accept(accepted({1: 50, 2: 50}), 2.0)
    item = await only(parts)
    assert (item.what, item.asked, item.found) == ("gateway", "{1: 100}", "{1: 50, 2: 50}")
    assert item.mend == "the gateway has not accepted it yet"
    parts.reconciler.refused = "a host is there twice"
    assert (await only(parts)).mend == "a host is there twice"


async def test_a_gateway_that_does_not_know_the_deployment(parts: Parts) -> None:
    parts.reconciler.routed.accept(Snapshot(), 2.0)
    assert (await only(parts)).found == "{}"


async def test_an_engine_that_does_not_answer_is_told_for_each_replica_on_it(parts: Parts, engine: ToldEngine) -> None:
    engine.failing = EngineError("nobody listens there")
    item = await only(parts)
    assert (item.what, item.replica, item.asked) == ("engine", NAME, "runc answers")
    assert item.found == "nobody listens there"
