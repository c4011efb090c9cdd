"""Services -> Envoy's clusters and their endpoints: one for each revision, NAME.REVISION, and NAME.pool for all.

Pure. Here is decided how a replica is chosen, when it is left out, and what is never exceeded. Called by `resources`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.load_balancing_policies.least_request.v3.least_request_pb2 import LeastRequest
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from dockyard.gateway.base import UPSTREAM_IDLE_S, Limits
from dockyard.gateway.messages import ADS, extension, metadata, packed, seconds
from dockyard.gateway.snapshot import Endpoint, Service, TcpAddress, UnixAddress

CONNECT_TIMEOUT_S = 5.0
POOL = "pool"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def cluster_name(service: Service, revision: int) -> str:
    """What Envoy calls a revision. No deployment's name has a dot in it, so no two share one."""
    return f"{service.name}.{revision}"


def pool_name(service: Service) -> str:
    """What Envoy calls the replicas of several revisions that serve as one."""
    return f"{service.name}.{POOL}"


def clusters_of(service: Service, limits: Limits) -> Iterator[Cluster]:
    """One for each revision that has endpoints to speak of, and the pool; where they are, Envoy asks separately."""
    for name in _members(service):
        yield Cluster(
            name=name,
            alt_stat_name=name.replace(".", "_"),
            type="EDS",
            eds_cluster_config={"eds_config": ADS},
            connect_timeout=seconds(CONNECT_TIMEOUT_S),
            typed_extension_protocol_options={HTTP_OPTIONS: packed(_upstream_protocol(service))},
            load_balancing_policy={"policies": [{"typed_extension_config": _least_request()}]},
            common_lb_config={"healthy_panic_threshold": {"value": 0}},
            outlier_detection=_outlier_detection(),
            circuit_breakers=_circuit_breakers(limits),
        )


def assignments_of(service: Service) -> Iterator[ClusterLoadAssignment]:
    """The endpoints of each cluster; a cluster without any has an empty list, so that nobody waits for one."""
    for name, members in _members(service).items():
        found = [_endpoint(endpoint, revision) for revision, each in members.items() for endpoint in each]
        yield ClusterLoadAssignment(cluster_name=name, endpoints=[{"lb_endpoints": found}] if found else [])


def _members(service: Service) -> dict[str, dict[int, tuple[Endpoint, ...]]]:
    """The clusters by name, and whose endpoints each has, by revision."""
    each = {cluster_name(service, number): {number: found} for number, found in sorted(service.endpoints.items())}
    return each | ({pool_name(service): pool} if (pool := service.pool) else {})


def _endpoint(endpoint: Endpoint, revision: int) -> dict[str, Any]:
    """Its id is its host name: so it appears in Envoy's own reports. No request carries it."""
    return {
        "endpoint": {"address": _address(endpoint.address), "hostname": endpoint.id},
        "health_status": "DRAINING" if endpoint.draining else "HEALTHY",
        "metadata": metadata({"replica": endpoint.id, "revision": str(revision)}),
    }


def _address(address: UnixAddress | TcpAddress) -> dict[str, Any]:
    if isinstance(address, UnixAddress):
        return {"pipe": {"path": address.path}}
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _upstream_protocol(service: Service) -> HttpProtocolOptions:
    """As the caller came: HTTP/1.1, or HTTP/2, which gRPC needs; only HTTP/1.1 where the server knows no other."""
    common = {"idle_timeout": seconds(UPSTREAM_IDLE_S)}
    if not service.http2:
        return HttpProtocolOptions(
            common_http_protocol_options=common, explicit_http_config={"http_protocol_options": {}}
        )
    both: dict[str, Any] = {"http_protocol_options": {}, "http2_protocol_options": {}}
    return HttpProtocolOptions(common_http_protocol_options=common, use_downstream_protocol_config=both)


def _least_request() -> dict[str, Any]:
    """The replica with the fewest requests of all; comparing two at random leaves some idle while others queue."""
    policy = LeastRequest(selection_method="FULL_SCAN")
    return extension("envoy.load_balancing_policies.least_request", policy)


def _outlier_detection() -> dict[str, Any]:
    """Leave out a replica that refuses connections or breaks requests, for a while, and never more than half of them.

    Only what the gateway sees itself counts. A 503 is how berth says that its queue is full; leaving that replica out
    would put its load on the others. A request that breaks on a connection is two events to Envoy, a good one and a
    bad one: so 40 % of bad ones means that hardly any request comes through.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": {"value": 5},
        "enforcing_consecutive_local_origin_failure": {"value": 100},
        "failure_percentage_threshold": {"value": 40},
        "failure_percentage_minimum_hosts": {"value": 2},
        "failure_percentage_request_volume": {"value": 10},
        "enforcing_failure_percentage": {"value": 0},
        "enforcing_failure_percentage_local_origin": {"value": 100},
        "enforcing_consecutive_5xx": {"value": 0},
        "enforcing_consecutive_gateway_failure": {"value": 0},
        "enforcing_success_rate": {"value": 0},
        "enforcing_local_origin_success_rate": {"value": 0},
        "interval": seconds(1),
        "base_ejection_time": seconds(5),
        "max_ejection_time": seconds(60),
        "max_ejection_percent": {"value": 50},
    }


def _circuit_breakers(limits: Limits) -> dict[str, Any]:
    return {
        "thresholds": [
            {
                "max_connections": {"value": limits.revision_connections},
                "max_pending_requests": {"value": limits.revision_connections},
                "max_requests": {"value": limits.revision_requests},
                "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": {"value": 10}},
            }
        ]
    }
