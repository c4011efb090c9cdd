"""Snapshot -> Envoy's routes: which path, host or metadata leads to which revisions, in what order.

Pure. The order is the meaning: previews first, then a refusal of previews that are not there (a caller who asks for one
must never be answered by what is live), then what is live, then a 404 that says what to do. Called by `resources`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import quote

from envoy.config.route.v3.route_components_pb2 import Route, RouteList, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.type.matcher.v3.http_inputs_pb2 import HttpRequestHeaderMatchInput
from xds.type.matcher.v3.matcher_pb2 import Matcher

from dockyard.gateway.addresses import PREVIEW_HEADER, host_of, preview_host_of
from dockyard.gateway.clusters import cluster_name, pool_name
from dockyard.gateway.messages import NAMESPACE, extension, header, metadata, seconds
from dockyard.gateway.snapshot import Service, Snapshot

ROUTES = "dockyard"
REVISION_HEADER = "x-dockyard-revision"
DEPLOYMENT_HEADER = "x-dockyard-deployment"
MODEL_METADATA = "model-name"
HEALTH_PATH = "/healthz"
_PREVIEW_ASKED = {"name": PREVIEW_HEADER, "present_match": True}
_NOT_FOUND = (
    "nothing is deployed under this address; `dockyard status` lists deployments and where they answer"
    " (/v2/models/NAME/infer, /v1/models/NAME:predict, /models/NAME/predict, or by host)"
)
_NO_PREVIEW = "there is no preview under this name now; `dockyard status` shows rollouts that wait for promotion"
_NO_REVISION = "no revision of this deployment serves yet; `dockyard status` shows how far its rollout is"


@dataclass(frozen=True)
class _Path:
    """One way to write a path to a model. `rewrite` replaces what `kind` matched; empty: it stays."""

    kind: str
    """`path`: all of it; `prefix`: how it begins; `path_separated_prefix`: the same, up to a slash or the end."""
    value: str
    rewrite: str = ""


def routes_of(snapshot: Snapshot) -> RouteConfiguration:
    """All routes, one virtual host for each host name, and one for every other."""
    services = sorted(snapshot.services, key=lambda each: each.name)
    hosts = [host for service in services for host in _hosts(service, snapshot.domain)]
    return RouteConfiguration(
        name=ROUTES,
        virtual_hosts=[*hosts, _any_host(services)],
        ignore_port_in_host_matching=True,
        response_headers_to_remove=["server", "x-envoy-upstream-service-time"],
        most_specific_header_mutations_wins=True,
    )


def _any_host(services: Sequence[Service]) -> VirtualHost:
    """Requests whose host says nothing: found by the beginning of the path, else by the metadata of gRPC.

    A tree, for a list would be searched from its beginning with every request: with 100 deployments that took a third
    of what the gateway can carry, with 1,000 four fifths.
    """
    paths: dict[str, list[Route]] = {HEALTH_PATH: [_direct({"path": HEALTH_PATH}, 200, "ok")]}
    for service in services:
        for start, found in groupby(_paths(service), lambda path: path.value.rstrip("/:")):
            matches = [(path, {path.kind: path.value}) for path in found]
            paths[start] = list(_named(service, matches))
    models = {service.name: list(_named(service, [(None, {"prefix": "/", "grpc": {}})])) for service in services}
    by_model = _tree(MODEL_METADATA, "exact_match_map", models, {"action": _listed([])})
    matcher = _tree(":path", "prefix_match_map", paths, {"matcher": by_model} if models else {"action": _listed([])})
    return VirtualHost(name="*", domains=["*"], matcher=matcher, retry_policy=_retries())


def _named(service: Service, matches: Sequence[tuple[_Path | None, dict[str, Any]]]) -> Iterator[Route]:
    """One deployment's routes where path or metadata name it: the preview for who asks for it, else what is live."""
    if service.preview is not None:
        own = [{"name": PREVIEW_HEADER, "string_match": {"exact": service.name}}]
        preview = _preview(service)
        yield from (_with_headers(_routed(preview, *each), own) for each in matches)
    yield _direct({"prefix": "/", "headers": [_PREVIEW_ASKED]}, 404, _NO_PREVIEW)
    live = _live(service)
    yield from (_routed(live, *each) for each in matches)


def _tree(header_name: str, kind: str, branches: Mapping[str, Sequence[Route]], otherwise: dict[str, Any]) -> Matcher:
    """What a request's header decides: the routes that are tried then."""
    asked = extension("header", HttpRequestHeaderMatchInput(header_name=header_name))
    found = {value: {"action": _listed(routes)} for value, routes in branches.items()}
    return Matcher(matcher_tree={"input": asked, kind: {"map": found}}, on_no_match=otherwise)


def _listed(routes: Sequence[Route]) -> dict[str, Any]:
    """The routes, one after the other, and a 404 after the last."""
    return extension("routes", RouteList(routes=[*routes, _direct({"prefix": "/"}, 404, _NOT_FOUND)]))


def _hosts(service: Service, domain: str) -> Iterator[VirtualHost]:
    """The hosts that belong to one deployment: every path leads to it."""
    preview = [_direct({"prefix": "/"}, 404, _NO_PREVIEW)]
    if service.preview is not None:
        preview = list(_everything(service, _preview(service)))
    by_header = [_with_headers(route, [_PREVIEW_ASKED]) for route in preview]
    live = [*by_header, *_everything(service, _live(service))]
    own = [host_of(service.name, domain), *service.hosts]
    yield VirtualHost(name=service.name, domains=own, routes=live, retry_policy=_retries())
    host = preview_host_of(service.name, domain)
    yield VirtualHost(name=host, domains=[host], routes=preview, retry_policy=_retries())


def _everything(service: Service, target: Route) -> Iterator[Route]:
    """All paths as they are; only where the model has another name inside, its own paths are rewritten."""
    if service.model not in {"", service.name}:
        for path in _protocol_paths(service):
            yield _routed(target, path, {path.kind: path.value})
    yield _on(target, {"prefix": "/"})


def _paths(service: Service) -> Iterator[_Path]:
    yield from _protocol_paths(service)
    yield _Path("prefix", f"/models/{service.name}/", "/")
    yield _Path("path", f"/models/{service.name}", "/")


def _protocol_paths(service: Service) -> Iterator[_Path]:
    """Where the protocols have the model's name: V2, TensorFlow Serving's V1 (with its colon), TorchServe's."""
    inside = quote(service.model or service.name, safe="")
    renamed = inside != service.name
    for kind, form in (
        ("path_separated_prefix", "/v2/models/{}"),
        ("path_separated_prefix", "/v1/models/{}"),
        ("prefix", "/v1/models/{}:"),
        ("path_separated_prefix", "/predictions/{}"),
    ):
        yield _Path(kind, form.format(service.name), form.format(inside) if renamed else "")


def _live(service: Service) -> Route:
    """Where the deployment's traffic goes, as a route without a match."""
    if not service.shares:
        return _direct({}, 503, _NO_REVISION, retry_after=True)
    if len(service.shares) > 1 and service.pool:
        return _to(service, {pool_name(service): 1})
    return _to(service, {cluster_name(service, revision): weight for revision, weight in service.shares.items()})


def _preview(service: Service) -> Route:
    assert service.preview is not None
    return _to(service, {cluster_name(service, service.preview): 1})


def _to(service: Service, shares: dict[str, int]) -> Route:
    """A route to clusters, by name, with the weight of each."""
    clusters = [{"name": name, "weight": {"value": weight}} for name, weight in shares.items()]
    action: dict[str, Any] = {
        "weighted_clusters": {"clusters": clusters},
        "timeout": seconds(service.timeout_s),
        "idle_timeout": seconds(service.timeout_s),
    }
    # Paths are rewritten, messages are not: there the replica has to know the name that the caller writes.
    known_as = [header(DEPLOYMENT_HEADER, service.name)] if service.model not in {"", service.name} else []
    return Route(
        route=action,
        metadata=metadata({"deployment": service.name}),
        request_headers_to_add=known_as,
        response_headers_to_add=[header(REVISION_HEADER, f"%METADATA(UPSTREAM_HOST:{NAMESPACE}:revision)%")],
    )


def _direct(match: dict[str, Any], status: int, text: str, *, retry_after: bool = False) -> Route:
    """Answered by the gateway itself; `listener` puts the text into JSON."""
    again = [header("retry-after", "1")] if retry_after else []
    answer = {"status": status, "body": {"inline_string": text}}
    return Route(match=match, direct_response=answer, response_headers_to_add=again)


def _on(target: Route, match: dict[str, Any]) -> Route:
    route = Route(match=match)
    route.MergeFrom(target)
    return route


def _routed(target: Route, path: _Path | None, match: dict[str, Any]) -> Route:
    route = _on(target, match)
    if path and path.rewrite and route.HasField("route"):
        route.route.prefix_rewrite = path.rewrite
    return route


def _with_headers(route: Route, headers: Sequence[dict[str, Any]]) -> Route:
    result = Route(match={"headers": headers})
    result.MergeFrom(route)
    return result


def _retries() -> dict[str, Any]:
    """Only what no replica has seen: a request that was sent may have been computed, and is not sent twice.

    Another replica is tried than the ones before, where there is one.
    """
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": {"value": 3},
        "retry_host_predicate": [extension("envoy.retry_host_predicates.previous_hosts", PreviousHostsPredicate())],
        "host_selection_retry_max_attempts": 3,
        "retry_back_off": {"base_interval": seconds(0.01), "max_interval": seconds(0.1)},
    }
