"""Snapshot -> Envoy's routes: which path, host or metadata leads to which revisions, in what order.

Pure. The order is the meaning: previews first, then a refusal of previews that are not there (a caller who asks for one
must never be answered by what is live), then what is live, then a 404 that says what to do. Called by `resources`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate

from dockyard.gateway.clusters import cluster_name
from dockyard.gateway.messages import extension, header, metadata, seconds
from dockyard.gateway.snapshot import Service, Snapshot

ROUTES = "dockyard"
PREVIEW_HEADER = "x-dockyard-preview"
REVISION_HEADER = "x-dockyard-revision"
MODEL_METADATA = "model-name"
HEALTH_PATH = "/healthz"
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
        response_headers_to_remove=["server"],
        most_specific_header_mutations_wins=True,
    )


def _any_host(services: Sequence[Service]) -> VirtualHost:
    """Requests whose host says nothing: found by path, or by the metadata of gRPC."""
    previewed = [service for service in services if service.preview is not None]
    routes = [
        _direct({"path": HEALTH_PATH}, 200, "ok"),
        *(route for service in previewed for route in _found(service, _preview(service), by_header=True)),
        _direct({"prefix": "/", "headers": [{"name": PREVIEW_HEADER, "present_match": True}]}, 404, _NO_PREVIEW),
        *(route for service in services for route in _found(service, _live(service))),
        _direct({"prefix": "/"}, 404, _NOT_FOUND),
    ]
    return VirtualHost(name="*", domains=["*"], routes=routes, retry_policy=_retries())


def _hosts(service: Service, domain: str) -> Iterator[VirtualHost]:
    """The hosts that belong to one deployment: every path leads to it."""
    asked = [{"name": PREVIEW_HEADER, "present_match": True}]
    preview = [_direct({"prefix": "/"}, 404, _NO_PREVIEW)]
    if service.preview is not None:
        preview = list(_everything(service, _preview(service)))
    by_header = [_with_headers(route, asked) for route in preview]
    live = [*by_header, *_everything(service, _live(service))]
    own = [f"{service.name}.{domain}", *service.hosts]
    yield VirtualHost(name=service.name, domains=own, routes=live, retry_policy=_retries())
    host = f"preview.{service.name}.{domain}"
    yield VirtualHost(name=host, domains=[host], routes=preview, retry_policy=_retries())


def _found(service: Service, target: Route, *, by_header: bool = False) -> Iterator[Route]:
    """The routes of one deployment where the host says nothing."""
    headers = [{"name": PREVIEW_HEADER, "string_match": {"exact": service.name}}] if by_header else []
    for path in _paths(service):
        yield _with_headers(_routed(target, path), headers)
    named = {"name": MODEL_METADATA, "string_match": {"exact": service.name}}
    yield _with_headers(_on(target, {"prefix": "/", "grpc": {}, "headers": [named]}), headers)


def _everything(service: Service, target: Route) -> Iterator[Route]:
    """All paths as they are; only where the model has another name inside, its own paths are rewritten."""
    if service.model not in {"", service.name}:
        for path in _protocol_paths(service):
            yield _routed(target, path)
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
    return _to(service, service.shares)


def _preview(service: Service) -> Route:
    assert service.preview is not None
    return _to(service, {service.preview: 1})


def _to(service: Service, shares: dict[int, int]) -> Route:
    action: dict[str, Any] = {
        "weighted_clusters": {
            "clusters": [
                {
                    "name": cluster_name(service, revision),
                    "weight": {"value": weight},
                    "response_headers_to_add": [header(REVISION_HEADER, str(revision))],
                }
                for revision, weight in shares.items()
            ]
        },
        "timeout": seconds(service.timeout_s),
        "idle_timeout": seconds(service.timeout_s),
    }
    return Route(route=action, metadata=metadata({"deployment": service.name}))


def _direct(match: dict[str, Any], status: int, text: str, *, retry_after: bool = False) -> Route:
    """Answered by the gateway itself; `listener` puts the text into JSON."""
    again = [header("retry-after", "1")] if retry_after else []
    answer = {"status": status, "body": {"inline_string": text}}
    return Route(match=match, direct_response=answer, response_headers_to_add=again)


def _on(target: Route, match: dict[str, Any]) -> Route:
    route = Route(match=match)
    route.MergeFrom(target)
    return route


def _routed(target: Route, path: _Path) -> Route:
    route = _on(target, {path.kind: path.value})
    if path.rewrite and route.HasField("route"):
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
