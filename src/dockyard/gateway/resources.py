"""Snapshot -> everything that Envoy is told, by kind and name. Pure; called by `ads` and `bootstrap`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.any_pb2 import Any as AnyMessage

from dockyard.gateway.base import GatewaySettings
from dockyard.gateway.clusters import assignments_of, clusters_of
from dockyard.gateway.listener import LISTENER, listener_of
from dockyard.gateway.messages import packed
from dockyard.gateway.routes import ROUTES, routes_of
from dockyard.gateway.snapshot import Snapshot


class Kind(StrEnum):
    """What Envoy asks for, by the URL of its type."""

    CLUSTERS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENERS = "type.googleapis.com/envoy.config.listener.v3.Listener"
    ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

    @property
    def word(self) -> str:
        """For people."""
        return self.name.lower()


@dataclass(frozen=True)
class Resources:
    """What a snapshot means to Envoy."""

    clusters: Mapping[str, Cluster] = field(hash=False)
    assignments: Mapping[str, ClusterLoadAssignment] = field(hash=False)
    listener: Listener = field(hash=False)
    routes: RouteConfiguration = field(hash=False)

    def packed(self, kind: Kind) -> Packed:
        """Those of one kind, ready to be sent."""
        found: Mapping[str, Cluster | ClusterLoadAssignment | Listener | RouteConfiguration] = {}
        match kind:
            case Kind.CLUSTERS:
                found = self.clusters
            case Kind.ENDPOINTS:
                found = self.assignments
            case Kind.LISTENERS:
                found = {LISTENER: self.listener}
            case Kind.ROUTES:
                found = {ROUTES: self.routes}
        return Packed({name: packed(message) for name, message in found.items()})


@dataclass(frozen=True)
class Packed:
    """Resources of one kind as they are sent, by name. `version` is the same for the same content."""

    by_name: Mapping[str, AnyMessage] = field(default_factory=dict, hash=False)
    version: str = ""

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for name, message in sorted(self.by_name.items()):
            digest.update(f"{name}\0{len(message.value)}\0".encode() + message.value)
        object.__setattr__(self, "version", digest.hexdigest()[:16])

    def joined(self, other: Packed) -> Packed:
        """These, and those of the other one that are not among them."""
        return Packed({**other.by_name, **self.by_name})


def resources_of(snapshot: Snapshot, settings: GatewaySettings) -> Resources:
    """GatewayError when the snapshot contradicts itself."""
    snapshot.consistent()
    clusters = [cluster for service in snapshot.services for cluster in clusters_of(service, settings.limits)]
    assignments = [each for service in snapshot.services for each in assignments_of(service)]
    return Resources(
        clusters={cluster.name: cluster for cluster in clusters},
        assignments={each.cluster_name: each for each in assignments},
        listener=listener_of(settings),
        routes=routes_of(snapshot),
    )
