"""What is told to Envoy arrives whole and in order, or not at all with Envoy's reason; and it is always consistent."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from envoy.config.route.v3.route_components_pb2 import Route, RouteList, VirtualHost
from hypothesis import given
from hypothesis import strategies as st
from xds.type.matcher.v3.matcher_pb2 import Matcher

from dockyard.errors import GatewayError
from dockyard.gateway.base import GatewaySettings
from dockyard.gateway.envoy import EnvoyGateway
from dockyard.gateway.resources import resources_of
from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, TcpAddress, UnixAddress
from tests.gateway.support import ask, load, replicas, service, snapshot

PATH = "/v2/models/iris/infer"
NOWHERE = Endpoint("nowhere", TcpAddress("not-an-address", 80))


async def test_a_refusal_carries_envoys_words_and_leaves_everything_as_it_was(
    gateway: EnvoyGateway, short_path: Path
) -> None:
    async with replicas(short_path, "a", "b") as (a, b):
        good = snapshot(service("iris", a))
        await gateway.apply(good)
        async with load(gateway.address, PATH, callers=2) as seen:
            for _ in range(3):
                with pytest.raises(GatewayError, match="malformed IP address: not-an-address"):
                    await gateway.apply(
                        snapshot(Service(name="bad", weights={1: 1}, endpoints={1: (NOWHERE,)}), service("iris", b))
                    )
            assert gateway.accepted == good
        assert seen.failed == 0
        assert (await ask(gateway.address, PATH)).json["replica"] == "a"
        assert (await ask(gateway.address, "/predictions/bad")).status == 404
        await gateway.apply(snapshot(service("iris", b)))
        assert (await ask(gateway.address, PATH)).json["replica"] == "b"


async def test_an_envoy_that_does_not_answer_is_told_within_the_deadline(
    gateway: EnvoyGateway, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replicas(short_path, "a", "b") as (a, b):
        good = snapshot(service("iris", a))
        await gateway.apply(good)
        os.kill(gateway.pid, signal.SIGSTOP)
        try:
            with pytest.raises(GatewayError, match=r"does not acknowledge its configuration after 0\.3 s"):
                await gateway._ads.publish(snapshot(service("iris", b)), 0.3)
        finally:
            os.kill(gateway.pid, signal.SIGCONT)
        assert gateway.accepted == good
        await gateway.apply(snapshot(service("iris", b)))
        assert (await ask(gateway.address, PATH)).json["replica"] == "b"


async def test_deployments_come_and_go_without_a_trace(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "a", "b") as (a, b):
        for chosen in (snapshot(service("iris", a)), snapshot(), snapshot(service("rose", b)), snapshot()):
            await gateway.apply(chosen)
            for name in ("iris", "rose"):
                there = any(each.name == name for each in chosen.services)
                assert (await ask(gateway.address, f"/predictions/{name}")).status == (200 if there else 404)
        assert await gateway.counts() == {}


async def test_changing_a_clusters_own_settings_drops_nothing(gateway: EnvoyGateway, short_path: Path) -> None:
    """Its endpoints stay the same, so Envoy must be told them again for the new cluster."""
    async with replicas(short_path, "a") as (a,):
        await gateway.apply(snapshot(service("iris", a)))
        async with load(gateway.address, PATH) as seen:
            for turn in range(6):
                await gateway.apply(snapshot(service("iris", a, http2=bool(turn % 2))))
                await asyncio.sleep(0.05)
        assert seen.failed == 0, seen
        assert sum(seen.statuses.values()) > 50


async def test_several_changes_at_once_are_made_one_after_the_other(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "a", "b", "c") as made:
        await asyncio.gather(*(gateway.apply(snapshot(service("iris", each))) for each in made))
        assert gateway.accepted == snapshot(service("iris", made[2]))
        assert (await ask(gateway.address, PATH)).json["replica"] == "c"


async def test_a_thousand_deployments_are_accepted(gateway: EnvoyGateway, short_path: Path) -> None:
    async with replicas(short_path, "a") as (a,):
        many = [service(f"model-{number}", pooled=True) for number in range(999)]
        await gateway.apply(snapshot(*many, service("iris", a)))
        assert (await ask(gateway.address, PATH)).status == 200
        assert (await ask(gateway.address, "/predictions/model-998")).status == 503


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Service(name="Iris", weights={}, endpoints={}), "no DNS label"),
        (Service(name="a.b", weights={}, endpoints={}), "no DNS label"),
        (Service(name="iris", weights={1: 1}, endpoints={}), "revision 1 has a weight and no endpoints"),
        (Service(name="iris", weights={1: -1}, endpoints={1: ()}), "weight -1"),
        (Service(name="iris", weights={}, endpoints={}, preview=2), "revision 2 is the preview"),
        (Service(name="iris", weights={}, endpoints={}, timeout_s=0), "timeout of 0"),
        (Service(name="iris", weights={}, endpoints={}, hosts=("*",)), "no host name"),
        (Service(name="iris", weights={}, endpoints={}, hosts=("a b",)), "no host name"),
        (
            Service(name="iris", weights={}, endpoints={}, hosts=("iris.localhost",)),
            "'iris.localhost' is there 2 times",
        ),
        (
            Service(name="iris", weights={}, endpoints={1: (Endpoint("a b", UnixAddress("/a")),)}),
            "no name of an endpoint",
        ),
        (Service(name="iris", weights={}, endpoints={1: (Endpoint("a", UnixAddress("a")),)}), "no absolute path"),
        (Service(name="iris", weights={}, endpoints={1: (Endpoint("a", TcpAddress("h", 0)),)}), "no address"),
        (
            Service(
                name="iris",
                weights={},
                endpoints={1: (Endpoint("a", UnixAddress("/a")),), 2: (Endpoint("a", UnixAddress("/a")),)},
            ),
            "endpoint 'a' is there 2 times",
        ),
    ],
)
def test_a_contradiction_is_named(wrong: Service, told: str) -> None:
    with pytest.raises(GatewayError, match=told):
        snapshot(wrong, service("other")).consistent()


def test_two_deployments_of_one_name_are_a_contradiction() -> None:
    with pytest.raises(GatewayError, match="deployment 'iris' is there 2 times"):
        snapshot(service("iris"), service("iris")).consistent()


names = st.sampled_from(["iris", "rose", "tulip"])


@st.composite
def services(draw: st.DrawFn, name: str) -> Service:
    revisions = draw(st.sets(st.integers(0, 4), max_size=3))
    endpoints = {
        revision: tuple(
            Endpoint(f"{name}-{revision}-{number}", UnixAddress(f"/{name}/{revision}/{number}"), draw(st.booleans()))
            for number in draw(st.sets(st.integers(0, 3)))
        )
        for revision in revisions
    }
    weights = {revision: draw(st.integers(0, 100)) for revision in revisions if draw(st.booleans())}
    preview = draw(st.sampled_from(sorted(revisions))) if revisions and draw(st.booleans()) else None
    return Service(
        name=name,
        weights=weights,
        endpoints=endpoints,
        preview=preview,
        model=draw(st.text(max_size=5)),
        pooled=draw(st.booleans()),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    return snapshot(*[draw(services(name)) for name in draw(st.sets(names))])


@given(snapshots())
def test_every_consistent_snapshot_routes_only_to_what_is_there(chosen: Snapshot) -> None:
    chosen.consistent()
    resources = resources_of(chosen, GatewaySettings(Path("/g")))
    assert resources.clusters.keys() == resources.assignments.keys()
    lists = [found for host in resources.routes.virtual_hosts for found in _lists(host)]
    routes = [route for found in lists for route in found]
    reached = {cluster.name for route in routes for cluster in route.route.weighted_clusters.clusters}
    assert reached <= resources.clusters.keys()
    assert reached >= {name for each in chosen.services for name in _live(each)}
    domains = [domain for host in resources.routes.virtual_hosts for domain in host.domains]
    assert len(domains) == len(set(domains))
    for found in lists:
        assert found[-1].match.prefix == "/"  # every request has an answer
        assert not found[-1].match.headers


def _live(service: Service) -> set[str]:
    """The clusters that have the live traffic: several revisions' own, or the pool."""
    if service.pooled and len(service.shares) > 1:
        return {f"{service.name}.pool"}
    return {f"{service.name}.{revision}" for revision in service.shares}


def _lists(host: VirtualHost) -> list[list[Route]]:
    """The lists of routes that one of them is taken from: the host's own, or those in its tree."""
    return [list(host.routes)] if host.routes else _leaves(host.matcher)


def _leaves(matcher: Matcher) -> list[list[Route]]:
    tree = matcher.matcher_tree
    branches = [*tree.prefix_match_map.map.values(), *tree.exact_match_map.map.values(), matcher.on_no_match]
    result = []
    for branch in branches:
        if branch.HasField("matcher"):
            result += _leaves(branch.matcher)
        else:
            leaf = RouteList()
            assert branch.action.typed_config.Unpack(leaf)
            result.append(list(leaf.routes))
    return result


@given(snapshots())
def test_a_snapshots_version_and_file_say_the_same_whatever_its_order(chosen: Snapshot) -> None:
    again = Snapshot.from_json(chosen.to_json())
    assert again == chosen
    assert Snapshot(services=chosen.services[::-1]).version == again.version == chosen.version


@given(snapshots(), snapshots())
def test_what_served_before_or_serves_after_serves_in_between(before: Snapshot, after: Snapshot) -> None:
    between = _serving(after.widened(before))
    assert between >= _serving(before) | _serving(after)
    for name, pool in _pools(after.widened(before)).items():
        assert pool >= _pools(before).get(name, set())


def _pools(chosen: Snapshot) -> dict[str, set[str]]:
    """Who gets requests in each pool."""
    return {
        service.name: {one.id for endpoints in service.pool.values() for one in endpoints if not one.draining}
        for service in chosen.services
    }


def _serving(chosen: Snapshot) -> set[tuple[str, int, str]]:
    return {
        (service.name, revision, endpoint.id)
        for service in chosen.services
        for revision, endpoints in service.endpoints.items()
        for endpoint in endpoints
        if not endpoint.draining
    }


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"services":[{"name":1}]}', b'{"services":[{"name":"a"}]}'])
def test_a_damaged_file_is_told(damaged: bytes) -> None:
    with pytest.raises(GatewayError, match="cannot be read"):
        Snapshot.from_json(damaged)
