"""What Envoy reads when it starts: where to ask for its configuration, or all of it; and what it may never exceed.

Pure. `ads_bootstrap` is how it runs beside a yard. `static_bootstrap` is the last good snapshot made whole: with it
Envoy serves without anybody to ask. Called by `envoy`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.resource_monitors.downstream_connections.v3.downstream_connections_pb2 import (
    DownstreamConnectionsConfig,
)
from envoy.extensions.resource_monitors.fixed_heap.v3.fixed_heap_pb2 import FixedHeapConfig
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from dockyard.gateway.base import GatewaySettings
from dockyard.gateway.clusters import HTTP_OPTIONS, POOL
from dockyard.gateway.listener import listener_of
from dockyard.gateway.messages import ADS, extension, packed, seconds
from dockyard.gateway.resources import Resources, resources_of
from dockyard.gateway.snapshot import Snapshot

ADS_SOCKET = "ads.sock"
ADMIN_SOCKET = "admin.sock"
_ADS_CLUSTER = "ads"
_OWNER_ONLY = 0o600
_HEAP = "envoy.resource_monitors.fixed_heap"
_MILLISECONDS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000, 20_000, 60_000)
_CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"


def ads_bootstrap(settings: GatewaySettings) -> Bootstrap:
    """Everything is asked of the ADS server; while that is away Envoy keeps what it has, and goes on asking."""
    service = {
        "envoy_grpc": {
            "cluster_name": _ADS_CLUSTER,
            "retry_policy": {"retry_back_off": {"base_interval": seconds(0.1), "max_interval": seconds(1)}},
        }
    }
    ads = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    return Bootstrap(
        **_common(settings),
        static_resources={"clusters": [_ads_cluster(settings.folder / ADS_SOCKET)]},
        dynamic_resources={"ads_config": ads, "cds_config": ADS, "lds_config": ADS},
    )


def static_bootstrap(settings: GatewaySettings, snapshot: Snapshot) -> Bootstrap:
    """The snapshot as a configuration that stands alone."""
    resources = resources_of(snapshot, settings)
    return Bootstrap(
        **_common(settings),
        static_resources={
            "clusters": _with_endpoints(resources),
            "listeners": [listener_of(settings, resources.routes)],
        },
    )


def _with_endpoints(resources: Resources) -> list[Cluster]:
    clusters = []
    for name, found in resources.clusters.items():
        cluster = Cluster()
        cluster.CopyFrom(found)
        cluster.ClearField("eds_cluster_config")
        cluster.type = Cluster.STATIC
        cluster.load_assignment.CopyFrom(resources.assignments[name])
        clusters.append(cluster)
    return clusters


def _ads_cluster(socket: Path) -> Cluster:
    options = HttpProtocolOptions(explicit_http_config={"http2_protocol_options": {}})
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    return Cluster(
        name=_ADS_CLUSTER,
        type="STATIC",
        connect_timeout=seconds(1),
        typed_extension_protocol_options={HTTP_OPTIONS: packed(options)},
        load_assignment={"cluster_name": _ADS_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    )


def _common(settings: GatewaySettings) -> dict[str, Any]:
    return {
        "node": {"cluster": "dockyard"},
        "admin": {"address": {"pipe": {"path": str(settings.folder / ADMIN_SOCKET), "mode": _OWNER_ONLY}}},
        "stats_config": {"stats_tags": _tags(), "histogram_bucket_settings": _buckets()},
        "stats_flush_interval": seconds(1),
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "overload_manager": _overload_manager(settings),
    }


def _tags() -> list[dict[str, str]]:
    """Labels of the metrics, read off the clusters' names, NAME_REVISION or NAME_pool: what group 1 finds goes away."""
    return [
        {"tag_name": "deployment", "regex": rf"^cluster\.(([a-z0-9-]+)_(?:\d+|{POOL})\.)"},
        {"tag_name": "revision", "regex": rf"^cluster\.([a-z0-9-]+_(\d+|{POOL})\.)"},
    ]


def _buckets() -> list[dict[str, Any]]:
    """Of the time that replicas take, in milliseconds, which is as exact as Envoy measures it."""
    return [{"match": {"suffix": "upstream_rq_time"}, "buckets": _MILLISECONDS}]


def _overload_manager(settings: GatewaySettings) -> dict[str, Any]:
    """Of memory: give back at 90 %, close idle connections at 95 %, refuse requests (503) at 98 %."""
    limits = settings.limits
    connections = DownstreamConnectionsConfig(max_active_downstream_connections=limits.connections)
    return {
        "refresh_interval": seconds(0.25),
        "resource_monitors": [
            extension(_HEAP, FixedHeapConfig(max_heap_size_bytes=limits.heap_bytes)),
            extension(_CONNECTIONS, connections),
        ],
        "actions": [
            _action("shrink_heap", 0.90),
            _action("disable_http_keepalive", 0.95),
            _action("stop_accepting_requests", 0.98),
        ],
    }


def _action(name: str, threshold: float) -> dict[str, Any]:
    return {
        "name": f"envoy.overload_actions.{name}",
        "triggers": [{"name": _HEAP, "threshold": {"value": threshold}}],
    }
