"""What `status` says about where a deployment answers, held against the routes that the gateway is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from envoy.config.route.v3.route_components_pb2 import Route, RouteList

from dockyard.gateway.routes import routes_of
from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, UnixAddress
from dockyard.oci.digest import digest_of
from dockyard.spec.deployment import Deployment, Probes, Routing, Server
from dockyard.yard.records import DeploymentRecord, DeploymentSnapshot, Origin, RevisionRecord
from dockyard.yard.state import RevisionState, Traffic
from dockyard.yard.urls import preview_urls, urls

GATEWAY = "http://127.0.0.1:8080"
HOST = "http://half.localhost:8080"
PREVIEW_HOST = "http://preview.half.localhost:8080"
TFSERVING = Server(preset="tfserving", port=8501)


def half(server: Server | None = None, ready: str = "/v2/health/ready", *hosts: str, **variables: str) -> Deployment:
    """Settings as the yard keeps them: what a preset says is written out."""
    return Deployment(
        name="half",
        image="half:1",
        server=server or Server(),
        probes=Probes(ready_path=ready),
        routing=Routing(hosts=hosts),
        environment=variables,
    )


# Settings; what is told; which path the server is asked for then. Inside an image of ours the model is called `clf`.
TABLE = {
    "ours": (
        half(),
        (f"{GATEWAY}/models/half/predict", f"{GATEWAY}/v2/models/half/infer"),
        ("/predict", "/v2/models/clf/infer"),
    ),
    "tfserving": (
        half(TFSERVING, "/v1/models/half"),
        (f"{GATEWAY}/v1/models/half:predict", f"{HOST}/v1/models/half:predict"),
        ("/v1/models/half:predict",) * 2,
    ),
    "tfserving whose model has another name": (
        half(TFSERVING, "/v1/models/half_plus_two"),
        (f"{GATEWAY}/models/half/v1/models/half_plus_two:predict", f"{HOST}/v1/models/half_plus_two:predict"),
        ("/v1/models/half_plus_two:predict",) * 2,
    ),
    "tfserving with a probe of its own, its model named by the variable": (
        half(TFSERVING, "/alive", MODEL_NAME="plus two"),
        (f"{GATEWAY}/models/half/v1/models/plus%20two:predict", f"{HOST}/v1/models/plus%20two:predict"),
        ("/v1/models/plus%20two:predict",) * 2,
    ),
    "tfserving of which nobody knows what its model is called": (
        half(TFSERVING, "/alive"),
        (f"{GATEWAY}/models/half/", f"{HOST}/"),
        ("/",) * 2,
    ),
    "torchserve": (
        half(Server(preset="torchserve", port=8080), "/ping"),
        (f"{GATEWAY}/models/half/", f"{HOST}/"),
        ("/",) * 2,
    ),
    "triton": (
        half(Server(preset="triton", port=8000)),
        (f"{GATEWAY}/models/half/", f"{HOST}/"),
        ("/",) * 2,
    ),
    "a server of one's own": (
        half(Server(port=9000), "/ready"),
        (f"{GATEWAY}/models/half/", f"{HOST}/"),
        ("/",) * 2,
    ),
}  # fmt: skip
table = pytest.mark.parametrize(("settings", "told", "inside"), TABLE.values(), ids=TABLE)


@table
def test_what_is_told_reaches_the_path_that_the_server_has(
    settings: Deployment, told: tuple[str, ...], inside: tuple[str, ...]
) -> None:
    found = urls(GATEWAY, "half", settings)
    assert found == told
    assert tuple(routed(url, service(settings)) for url in found) == tuple((1, path) for path in inside)


@table
def test_what_is_told_of_a_preview_reaches_it_and_never_the_live_revision(
    settings: Deployment, told: tuple[str, ...], inside: tuple[str, ...]
) -> None:
    by_host, by_header = preview_urls(GATEWAY, snapshot(settings), {"half": Traffic({1: 100}, {}, 2)})
    assert by_host.startswith(f"{PREVIEW_HOST}/")
    url, _, header = by_header.partition(" with the header ")
    assert url in told
    name, value = header.strip("`").split(": ")
    answers = {routed(by_host, service(settings)), routed(url, service(settings), {name: value})}
    assert answers == {(2, inside[0])}


def test_hosts_of_its_own_are_told_with_the_gateways_port() -> None:
    found = urls(GATEWAY, "half", half(None, "/v2/health/ready", "half.example.org"))
    assert found[-1] == "http://half.example.org:8080"


def test_while_no_revision_is_there_nothing_answers() -> None:
    assert urls(GATEWAY, "half", None) == ()


def test_without_a_preview_none_is_told() -> None:
    assert preview_urls(GATEWAY, snapshot(half()), {"half": Traffic({1: 100}, {})}) == ()


def snapshot(settings: Deployment) -> DeploymentSnapshot:
    """The deployment with two revisions of these settings."""
    revisions = {
        number: RevisionRecord(
            "half", number, settings, digest_of(b"half"), "half:1", 1 << 28, Origin("ada"), 1.0, RevisionState.ACTIVE, 1
        )
        for number in (1, 2)
    }
    return DeploymentSnapshot(DeploymentRecord("half", 1, 1, 1.0), revisions, (), None)


def service(settings: Deployment) -> Service:
    """The deployment as the gateway is told of it, revision 2 in preview."""
    endpoints = {
        number: (
            Endpoint(
                f"r{number}",
                UnixAddress(str(Path("/run") / f"r{number}")),
            ),
        )
        for number in (1, 2)
    }
    model = "half" if settings.server.port else "clf"
    return Service(name="half", weights={1: 100}, endpoints=endpoints, preview=2, model=model)


def routed(url: str, service: Service, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The revision and the path that a request reaches by the gateway's routes, tried as Envoy does; or (0, "")."""
    place = urlsplit(url)
    assert place.port == 8080
    for route in _tried(service, str(place.hostname), place.path):
        kind = route.match.WhichOneof("path_specifier")
        start = getattr(route.match, kind)
        fits = place.path == start if kind == "path" else place.path.startswith(start)
        asked = [(each.name, each.string_match.exact) for each in route.match.headers]
        if not fits or not all((headers or {}).get(name) in {exact or "half"} for name, exact in asked):
            continue
        if not route.HasField("route"):
            return 0, ""
        revision = int(route.route.weighted_clusters.clusters[0].name.rpartition(".")[2])
        rewrite = route.route.prefix_rewrite
        return revision, rewrite + place.path.removeprefix(start) if rewrite else place.path
    return 0, ""


def _tried(service: Service, host: str, path: str) -> Iterator[Route]:
    """The routes of this host; where no deployment has it, those of the longest beginning of the path."""
    *hosts, any_host = routes_of(Snapshot(services=(service,))).virtual_hosts
    for each in hosts:
        if host in each.domains:
            yield from each.routes
            return
    starts = any_host.matcher.matcher_tree.prefix_match_map.map
    found = max((each for each in starts if path.startswith(each)), key=len, default="")
    if found:
        listed = RouteList()
        assert starts[found].action.typed_config.Unpack(listed)
        yield from listed.routes
