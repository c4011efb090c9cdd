"""The gateway's configuration: from where the plan wants each deployment's requests to go. Pure.

`reconcile` calls it with every plan and sends the snapshot on when it differs from the accepted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from dockyard.engines.base import TcpAddress
from dockyard.engines.labels import HTTP_SOCKET
from dockyard.gateway.snapshot import Endpoint, Service, Snapshot, UnixAddress, drained
from dockyard.gateway.snapshot import TcpAddress as GatewayTcp
from dockyard.yard.records import DeploymentSnapshot, ReplicaRecord, RevisionRecord
from dockyard.yard.state import Traffic

TcpOf = Callable[[str], TcpAddress | None]
ModelOf = Callable[[RevisionRecord], str]


def snapshot_of(
    deployments: Iterable[DeploymentSnapshot], traffic: Mapping[str, Traffic], tcp_of: TcpOf, model_of: ModelOf
) -> Snapshot:
    """What the gateway should serve. `tcp_of`: where a foreign server answers; one that has no address is left out."""
    services = []
    for each in deployments:
        wanted = traffic.get(each.deployment.name)
        if wanted is not None:
            services.append(_service(each, wanted, tcp_of, model_of))
    return Snapshot(services=tuple(_with_hosts_of_their_own(services)))


def _with_hosts_of_their_own(services: Sequence[Service]) -> Iterator[Service]:
    """Each host name for one service only, and rather for one that has traffic.

    `admission` lets no two deployments serve one; but one that was restored must not keep the gateway from all others.
    """
    taken = set[str]()
    for service in sorted(services, key=lambda one: (not one.shares, one.name)):
        hosts = tuple(host for host in service.hosts if host not in taken)
        taken.update(hosts)
        yield msgspec.structs.replace(service, hosts=hosts)


def _service(deployment: DeploymentSnapshot, traffic: Traffic, tcp_of: TcpOf, model_of: ModelOf) -> Service:
    """The settings of routing are those of the revision with the most traffic, or else of the newest."""
    name = deployment.deployment.name
    if not deployment.revisions:
        return Service(name=name, weights={}, endpoints={})
    shown = max(deployment.revisions, key=lambda number: (traffic.weights.get(number, 0), number))
    routing = deployment.revisions[shown].settings.routing
    records = {each.id: each for each in deployment.replicas}

    def endpoints(number: int, replicas: Iterable[str]) -> tuple[Endpoint, ...]:
        return _endpoints(deployment, number, [records[each] for each in replicas], tcp_of)

    return Service(
        name=name,
        model=model_of(deployment.revisions[shown]),
        hosts=routing.hosts,
        timeout_s=routing.timeout_s,
        weights=dict(traffic.weights),
        endpoints={
            number: (
                *endpoints(number, traffic.endpoints.get(number, ())),
                *map(drained, endpoints(number, traffic.draining.get(number, ()))),
            )
            for number in sorted({*traffic.endpoints, *traffic.draining})
        },
        preview=traffic.preview,
        http2=not is_foreign(deployment, shown),
        pooled=True,
    )


def is_foreign(deployment: DeploymentSnapshot, revision: int) -> bool:
    """Whether a revision's server listens on a port of its own, and not on the socket that it is given."""
    return deployment.revisions[revision].settings.server.port != 0


def _endpoints(
    deployment: DeploymentSnapshot, revision: int, replicas: Iterable[ReplicaRecord], tcp_of: TcpOf
) -> tuple[Endpoint, ...]:
    if not is_foreign(deployment, revision):
        return tuple(Endpoint(each.id, UnixAddress(str(each.folder / HTTP_SOCKET))) for each in replicas)
    found = [(each.id, tcp_of(each.id)) for each in replicas]
    return tuple(Endpoint(name, GatewayTcp(tcp.host, tcp.port)) for name, tcp in found if tcp is not None)
