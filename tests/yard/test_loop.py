"""The small parts of the yard's loop, each by itself: what is routed, where requests go, what is told again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from dockyard.engines.base import Engine
from dockyard.errors import YardConflictError
from dockyard.gateway.base import Gateway
from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, UnixAddress
from dockyard.oci.digest import digest_of
from dockyard.oci.layout import Layout
from dockyard.spec.deployment import Deployment, Routing, Server
from dockyard.yard.host import Host
from dockyard.yard.lock import alone, holder
from dockyard.yard.observe import Routed, world_of
from dockyard.yard.reconcile import Reconciler
from dockyard.yard.records import (
    DeploymentRecord,
    DeploymentSnapshot,
    NewRevision,
    Origin,
    ReplicaRecord,
    RevisionRecord,
)
from dockyard.yard.repeated import EVERY_S, KNOWN, Repeated
from dockyard.yard.state import Phase, RevisionState, Traffic
from dockyard.yard.store import Store
from dockyard.yard.traffic import snapshot_of
from tests.support.tiny_image import make_image
from tests.yard.told import ToldEngine, ToldGateway, parts_of


def endpoint(name: str, *, draining: bool = False) -> Endpoint:
    return Endpoint(name, UnixAddress(f"/run/{name}"), draining)


def accepted(*endpoints: Endpoint) -> Snapshot:
    return Snapshot(services=(Service(name="shop", weights={1: 100}, endpoints={1: endpoints}),))


def test_while_nobody_knows_what_the_gateway_routes_everything_counts_as_routed() -> None:
    assert "anything" in Routed(begun=1.0)


def test_a_draining_endpoint_is_routed_no_more_since_the_gateway_accepted_that() -> None:
    routed = Routed(begun=1.0)
    routed.accept(accepted(endpoint("a"), endpoint("b")), 2.0)
    routed.accept(accepted(endpoint("a"), endpoint("b", draining=True)), 3.0)
    assert ("a" in routed, "b" in routed) == (True, False)
    assert (routed.since["a"], routed.since["b"]) == (2.0, 3.0)


def shop(server: Server | None = None, *replicas: ReplicaRecord) -> DeploymentSnapshot:
    settings = Deployment(name="shop", image="shop:1", server=server or Server())
    revision = RevisionRecord(
        "shop", 1, settings, digest_of(b"shop"), "shop:1", 1 << 28, Origin("ada"), 1.0, RevisionState.ACTIVE, 1.0
    )
    return DeploymentSnapshot(DeploymentRecord("shop", 1, 1, 1.0), {1: revision}, replicas, None)


def replica(name: str) -> ReplicaRecord:
    return ReplicaRecord(name, "shop", 1, "runc", Path("/run") / name, name, Phase.READY, 1.0, 1.0)


def test_a_replica_of_ours_is_an_endpoint_at_its_socket_even_while_it_does_not_run() -> None:
    traffic = {"shop": Traffic({1: 100}, {1: ("a",)}, None, {1: ("b",)})}
    found = snapshot_of([shop(None, replica("a"), replica("b"))], traffic, lambda _: None, lambda *_: "model")
    assert found.services[0].endpoints == {
        1: (
            Endpoint("a", UnixAddress("/run/a/http.sock")),
            Endpoint("b", UnixAddress("/run/b/http.sock"), draining=True),
        )
    }
    assert (found.services[0].model, found.services[0].http2) == ("model", True)


def test_a_foreign_server_is_no_endpoint_until_it_has_an_address() -> None:
    traffic = {"shop": Traffic({1: 100}, {1: ("a",)})}
    found = snapshot_of([shop(Server(port=80), replica("a"))], traffic, lambda _: None, lambda *_: "shop")
    assert found.services[0].endpoints == {1: ()}
    assert not found.services[0].http2


def test_a_host_name_that_two_have_is_one_s_alone_and_rather_of_the_one_with_traffic() -> None:
    hosts = Routing(hosts=("models.example.org", "own.example.org"))
    both = []
    for name in ("bank", "shop"):
        one = shop(None, replace(replica(f"{name}-1"), deployment=name))
        settings = msgspec.structs.replace(one.revisions[1].settings, name=name, routing=hosts)
        revision = replace(one.revisions[1], deployment=name, settings=settings)
        both.append(replace(one, deployment=replace(one.deployment, name=name), revisions={1: revision}))
    traffic = {"bank": Traffic({}, {}), "shop": Traffic({1: 100}, {1: ("shop-1",)})}
    found = snapshot_of(both, traffic, lambda _: None, lambda *_: "model")
    found.consistent()
    assert {each.name: each.hosts for each in found.services} == {"bank": (), "shop": hosts.hosts}


def test_a_deployment_whose_revisions_have_all_failed_is_still_known_to_the_gateway() -> None:
    empty = DeploymentSnapshot(DeploymentRecord("shop", 1, None, 1.0), {}, (), None)
    found = snapshot_of([empty], {"shop": Traffic({}, {})}, lambda _: None, lambda *_: "shop")
    assert found.services == (Service(name="shop", weights={}, endpoints={}),)


def test_the_planner_is_shown_what_the_gateway_says_of_each_replica() -> None:
    routed = Routed(begun=1.0)
    routed.accept(accepted(endpoint("a")), 5.0)
    world = world_of([shop(None, replica("a"), replica("b"))], routed, {"a": 7}, 1 << 30)
    first, second = world.deployments[0].replicas
    assert (first.routed, first.in_flight, first.routed_since) == (True, 7, 5.0)
    assert (second.routed, second.in_flight, second.routed_since) == (False, 0, 1.0)


def test_the_same_refusal_is_told_once_a_minute_with_how_often_it_came() -> None:
    repeated = Repeated()
    assert repeated.count(("eve", "GET"), 0.0) == 0
    assert [repeated.count(("eve", "GET"), 1.0), repeated.count(("eve", "GET"), 2.0)] == [None, None]
    assert repeated.count(("ada", "GET"), 3.0) == 0
    assert repeated.count(("eve", "GET"), EVERY_S + 0.1) == 2


def test_a_flood_of_different_refusals_takes_no_more_memory() -> None:
    repeated = Repeated()
    for number in range(3 * KNOWN):
        assert repeated.count((str(number),), 0.0) == 0
    assert len(repeated._seen) == KNOWN


def test_the_lock_of_a_yard_names_its_holder_and_keeps_others_out(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with alone(tmp_path):
        assert holder(tmp_path) is not None
        with pytest.raises(YardConflictError, match="runs in"), alone(tmp_path):
            pass
    assert holder(tmp_path) is None


class Nothing:
    """An engine on which nothing runs, and a gateway that takes whatever it is told: only the loop is looked at."""

    name = "nothing"

    async def list(self) -> list[Any]:
        return []

    async def apply(self, wanted: Snapshot) -> None:
        assert wanted.services == ()


@pytest.mark.parametrize("turns", range(6))
async def test_the_loop_ends_when_it_is_told_so_just_when_something_has_changed(
    store: Store, tmp_path: Path, turns: int
) -> None:
    """So many turns of the event loop lie between the two."""
    nothing = Nothing()
    host = Host({"nothing": cast(Engine, nothing)}, "nothing", Layout(tmp_path / "images"), tmp_path, 1 << 30)
    reconciler = Reconciler(host, store, cast(Gateway, nothing), cast(Any, None))
    running = asyncio.create_task(reconciler.run())
    await asyncio.sleep(0.2)  # it waits for a change, or for five seconds
    reconciler.wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running}, timeout=2)
    assert running.cancelled()


async def test_an_image_that_is_gone_does_not_keep_the_loop_from_anything_else(store: Store, tmp_path: Path) -> None:
    parts = parts_of(store, tmp_path, ToldGateway(), ToldEngine())
    image = make_image(parts.host.images, (), "there:1")
    for name, digest in (("gone", digest_of(b"gone")), ("there", image.digest)):
        asked = Deployment(name=name, image=f"{name}@{digest}")
        store.add_revision(NewRevision(asked, digest, f"{name}:1", 1 << 20), Origin("ada"))
        store.begin_rollout(name, 1, Origin("ada"))
    await parts.reconciler._round()
    assert {each.deployment for each in store.replicas()} == {"gone", "there"}
    accepted = parts.reconciler.routed.accepted
    assert accepted is not None
    assert {each.name: each.model for each in accepted.services} == {"gone": "gone", "there": "tiny"}
    assert not [each for each in store.events.newest() if each.kind == "yard.fault"]
    await parts.reconciler.close()
