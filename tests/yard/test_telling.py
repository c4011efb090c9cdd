"""What the yard tells when it is asked: replicas with their requests, the whole history, problems by a word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dockyard.errors import GatewayError, UnknownInYardError
from dockyard.oci.image import ImageConfig, Platform, assemble
from dockyard.spec.deployment import Deployment
from dockyard.spec.status import Scope
from dockyard.yard.act import Actor as Deeds
from dockyard.yard.changing import Changing
from dockyard.yard.inflight import FRESH_S, PATIENCE_S
from dockyard.yard.operations import Actor, Cause
from dockyard.yard.parts import Parts
from dockyard.yard.records import NewRevision
from dockyard.yard.state import Advance, Phase, RevisionState, RolloutPhase
from dockyard.yard.store import Store
from dockyard.yard.telling import Telling
from tests.support.memory_yard import receipt
from tests.yard.conftest import ADA, revision
from tests.yard.told import ToldEngine, ToldGateway, parts_of

FOLDER = Path("/run/dockyard")


@pytest.fixture
async def gateway() -> ToldGateway:
    return ToldGateway()


@pytest.fixture
def parts(store: Store, tmp_path: Path, gateway: ToldGateway) -> Iterator[Parts]:
    made = parts_of(store, tmp_path, gateway, ToldEngine())
    yield made
    made.looking.close()


@pytest.fixture
def telling(parts: Parts) -> Telling:
    return Telling(parts)


def rolled_out(store: Store, content: str = "one", *, ended: bool = True) -> int:
    """A new revision of `iris`; its number. Its rollout has ended, or goes on."""
    number = store.add_revision(revision(content=content), ADA).number
    store.begin_rollout("iris", number, ADA)
    if ended:
        store.advance(Advance("iris", RolloutPhase.DONE))
    return number


def ready(store: Store, name: str, number: int = 1) -> None:
    store.add_replica(name, "iris", number, engine="runc", folder=FOLDER / name)
    store.set_phase(name, Phase.READY)


async def in_flight(telling: Telling) -> dict[str, int]:
    return {each.id: each.in_flight for each in (await telling.status("iris")).replicas}


async def test_requests_in_flight_are_those_that_the_gateway_counts(
    store: Store, telling: Telling, gateway: ToldGateway
) -> None:
    rolled_out(store)
    ready(store, "iris-1-a")
    ready(store, "iris-1-b")
    gateway.counted = {"iris-1-a": 3, "elsewhere": 9}
    assert await in_flight(telling) == {"iris-1-a": 3, "iris-1-b": 0}
    (listed,) = await telling.deployments()
    assert [each.in_flight for each in listed.replicas] == [3, 0]


async def test_a_rollout_tells_requests_in_flight_too(store: Store, telling: Telling, gateway: ToldGateway) -> None:
    rolled_out(store, ended=False)
    ready(store, "iris-1-a")
    gateway.counted = {"iris-1-a": 5}
    update = await anext(aiter(telling.rollout("iris", None)))
    assert [each.in_flight for each in update.replicas] == [5]


async def test_a_status_is_told_without_them_while_the_gateway_does_not_answer(
    store: Store, telling: Telling, gateway: ToldGateway
) -> None:
    rolled_out(store)
    ready(store, "iris-1-a")
    gateway.failing = GatewayError("it is gone", remedy="Wait.")
    assert await in_flight(telling) == {"iris-1-a": 0}


async def test_a_gateway_that_hangs_delays_a_status_by_a_moment_and_is_asked_once(
    store: Store, telling: Telling, gateway: ToldGateway
) -> None:
    rolled_out(store)
    ready(store, "iris-1-a")
    gateway.counted = {"iris-1-a": 3}
    gateway.go.clear()
    begun = time.monotonic()
    answers = await asyncio.gather(*(in_flight(telling) for _ in range(10)))
    assert time.monotonic() - begun < PATIENCE_S + 1
    assert answers == [{"iris-1-a": 0}] * 10
    await in_flight(telling)
    assert gateway.asked == 1
    gateway.go.set()
    await asyncio.sleep(0)
    assert await in_flight(telling) == {"iris-1-a": 3}


async def test_many_who_ask_at_once_cost_the_gateway_one_look(
    store: Store, telling: Telling, gateway: ToldGateway
) -> None:
    rolled_out(store)
    ready(store, "iris-1-a")
    begun = time.monotonic()
    await asyncio.gather(*(in_flight(telling) for _ in range(10)))
    assert gateway.asked == 1
    await in_flight(telling)
    assert gateway.asked == 1 or time.monotonic() - begun > FRESH_S
    asked = gateway.asked
    gateway.counted = {"iris-1-a": 3}
    await asyncio.sleep(FRESH_S)
    assert await in_flight(telling) == {"iris-1-a": 3}
    assert gateway.asked == asked + 1


async def test_one_deployment_is_told_with_what_was_asked_for_with_each_revision(
    store: Store, telling: Telling
) -> None:
    rolled_out(store)
    rolled_out(store, "two", ended=False)
    settings = {number: store.revision("iris", number).settings for number in (1, 2)}
    assert settings[1] != settings[2]
    told = await telling.status("iris")
    assert {each.number: each.asked for each in told.revisions} == settings
    (listed,) = await telling.deployments()
    assert [each.asked for each in listed.revisions] == [None, None]


async def test_events_of_a_rollout_say_the_revision_that_it_is_to(store: Store, telling: Telling, parts: Parts) -> None:
    rolled_out(store)
    rolled_out(store, "two", ended=False)
    await Deeds(parts.host, store, parts.reconciler.fleet).act(Advance("iris", RolloutPhase.FAILED, "it crashed"))
    told = [each async for each in telling.events(0, deployment="iris", follow=False)]
    assert [(each.kind, each.revision) for each in told] == [("rollout.failed", 2)]


MANY = 120


def failed_since(store: Store, times: int) -> None:
    """Revision 1 had the traffic, and 2 has it; so many were tried since, each in vain."""
    rolled_out(store, "one")
    rolled_out(store, "two")
    for number in range(times):
        rolled_out(store, f"bad {number}", ended=False)
        store.advance(Advance("iris", RolloutPhase.FAILED, "it crashed"))


async def test_the_history_is_whole_with_the_receipt_of_each_revision(store: Store, telling: Telling) -> None:
    failed_since(store, MANY)
    first = store.rollouts("iris")[-1]
    store.set_receipt(first.id, msgspec.to_builtins(receipt(rollout=first.id)))
    told = await telling.history("iris")
    assert [each.number for each in told] == [*range(MANY + 2, 0, -1)]
    assert told[-1].receipt == receipt(rollout=first.id)


async def test_a_rollout_of_long_ago_is_told_by_its_number(store: Store, telling: Telling) -> None:
    failed_since(store, MANY)
    first = store.rollouts("iris")[-1]
    store.set_receipt(first.id, msgspec.to_builtins(receipt(rollout=first.id)))
    (update,) = [each async for each in telling.rollout("iris", first.id)]
    assert (update.rollout.id, update.rollout.target) == (first.id, 1)
    store.add_revision(revision("shop"), ADA)
    others = store.begin_rollout("shop", 1, ADA).id
    with pytest.raises(UnknownInYardError, match=f"iris has no rollout {others}"):
        await anext(aiter(telling.rollout("iris", others)))


async def test_a_rollback_finds_the_one_before_however_many_have_failed_since(store: Store, parts: Parts) -> None:
    made = assemble(ImageConfig(Platform.host()), [])
    layout = parts.host.images
    layout.blobs.write(made.config)
    layout.blobs.write(made.manifest)
    layout.add(made.image, "iris:1")
    settings = Deployment(name="iris", image="iris:1")
    store.add_revision(NewRevision(settings, made.image.digest, "iris:1", 1 << 28), ADA)
    store.begin_rollout("iris", 1, ADA)
    store.advance(Advance("iris", RolloutPhase.DONE))
    failed_since(store, MANY)
    store.mark("iris", 2, RevisionState.FAILED)
    cause = Cause(Actor("ada", Scope.OPERATOR))
    proposal = await Changing(parts).rollback("iris", None, cause, dry_run=True)
    assert (proposal.previous, proposal.revision) == (3, 1)
