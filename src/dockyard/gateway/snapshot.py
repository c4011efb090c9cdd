"""What the gateway routes, as one frozen value: every deployment with its shares of traffic and its endpoints.

Pure, and without a word of Envoy's: the yard makes a snapshot of what it planned, `resources` turns it into Envoy's
configuration, and its JSON on disk is what a gateway starts from when it is alone.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec

from dockyard.errors import GatewayError
from dockyard.spec.deployment import LOCAL_DOMAIN, HostName, Name

SNAPSHOT = "snapshot.json"
"""The file of the last accepted one, in the gateway's folder."""
PATH_LIMIT = 107
_ENDPOINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
_MOST_WEIGHT = 2**31


class UnixAddress(msgspec.Struct, frozen=True, tag="unix"):
    """A unix socket: an absolute path of at most 107 bytes."""

    path: str


class TcpAddress(msgspec.Struct, frozen=True, tag="tcp"):
    """A TCP port of an IP address."""

    host: str
    port: int


class Endpoint(msgspec.Struct, frozen=True):
    """One replica as the gateway sees it. A draining one gets no new requests; those in flight are counted."""

    id: str
    address: UnixAddress | TcpAddress
    draining: bool = False


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment.

    `weights`: share of the traffic by revision; empty: no revision serves yet, and callers are told so (503).
    `endpoints`: the replicas of every revision that has a weight, is the preview, or still drains.
    `hosts`: names beyond NAME.<domain>; `*.` may stand in front. `timeout_s`: of one request, from its last byte in to
    its last byte out. `model`: what the model is called inside the image, when that is not the deployment's name.
    `pooled`: while several revisions have a share, the next request goes to whichever of all their replicas has the
    fewest, so that the weights only tell what comes of it; otherwise chance deals it to a revision, by weight.
    `preview`: the revision that answers under the preview host and header. `http2`: its server takes HTTP/2 and gRPC
    on the same socket, as berth does; without, everything is asked over HTTP/1.1.
    """

    name: str
    weights: Mapping[int, int]
    endpoints: Mapping[int, tuple[Endpoint, ...]]
    hosts: tuple[str, ...] = ()
    timeout_s: float = 300.0
    model: str = ""
    preview: int | None = None
    http2: bool = True
    pooled: bool = False

    @property
    def shares(self) -> dict[int, int]:
        """The revisions that get any traffic, with their weights, in the order of their numbers."""
        return {revision: weight for revision, weight in sorted(self.weights.items()) if weight}

    @property
    def pool(self) -> dict[int, tuple[Endpoint, ...]]:
        """The replicas of all revisions but the preview, which serve as one; without a share, they drain there.

        It is there also while one revision has all the traffic: what was in flight when that began is counted, and what
        was counted is not forgotten between two rollouts.
        """
        if not self.pooled:
            return {}
        shares, hidden = self.shares, {self.preview} - self.shares.keys()
        return {
            number: found if number in shares else tuple(map(drained, found))
            for number, found in sorted(self.endpoints.items())
            if number not in hidden
        }


def drained(endpoint: Endpoint) -> Endpoint:
    """The endpoint, getting no new requests."""
    return msgspec.structs.replace(endpoint, draining=True)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the gateway routes. `domain`: a deployment is reached under NAME.<domain> as well."""

    services: tuple[Service, ...] = ()
    domain: str = LOCAL_DOMAIN

    @property
    def version(self) -> str:
        """The same for the same content, whatever the order of services and revisions: 16 hexadecimal digits."""
        services = tuple(_ordered(service) for service in sorted(self.services, key=lambda each: each.name))
        ordered = msgspec.structs.replace(self, services=services)
        return hashlib.sha256(msgspec.json.encode(ordered)).hexdigest()[:16]

    def consistent(self) -> None:
        """GatewayError that lists every contradiction, unless Envoy can route all of it."""
        if problems := list(_problems(self)):
            raise GatewayError(
                "the gateway's snapshot contradicts itself",
                detail="\n".join(problems),
                remedy="This is a fault of Dockyard: please report it.",
            )

    def widened(self, before: Snapshot) -> Snapshot:
        """Everything that served in either: what is safe to have while routes still lead where they led before.

        What both have is as it is here. A replica that served before serves still, even if it drains here. Not for
        `consistent`: a replica that moved is in two places.
        """
        known = {service.name: service for service in before.services}
        ours = {service.name for service in self.services}
        wider = [_widened(service, known.get(service.name)) for service in self.services]
        others = [service for service in before.services if service.name not in ours]
        return msgspec.structs.replace(self, services=(*wider, *others))

    def to_json(self) -> bytes:
        """For a file; `from_json` reads it."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Snapshot:
        """GatewayError when this is not a snapshot."""
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise GatewayError(
                "the gateway's last good snapshot cannot be read",
                detail=str(error),
                remedy="Remove the file; the yard writes a new one with its next change.",
            ) from error


def _widened(service: Service, before: Service | None) -> Service:
    if before is None:
        return service
    endpoints = dict(before.endpoints)
    for revision, new in service.endpoints.items():
        served = {each.id: each for each in before.endpoints.get(revision, ()) if not each.draining}
        fresh = {each.id: each for each in new}
        kept = {name: each for name, each in served.items() if name not in fresh or fresh[name].draining}
        endpoints[revision] = tuple((fresh | kept).values())
    return msgspec.structs.replace(
        service,
        weights={**service.weights, **before.shares},
        endpoints=endpoints,
        pooled=service.pooled or before.pooled,
    )


def _ordered(service: Service) -> Service:
    endpoints = {revision: tuple(sorted(each, key=lambda one: one.id)) for revision, each in service.endpoints.items()}
    return msgspec.structs.replace(
        service, weights=dict(sorted(service.weights.items())), endpoints=dict(sorted(endpoints.items()))
    )


def _problems(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.domain.startswith("*") or not _is(HostName, snapshot.domain):
        yield f"{snapshot.domain!r} is no domain"
    for service in snapshot.services:
        for problem in (*_wrong_itself(service), *_wrong_traffic(service), *_wrong_endpoints(service)):
            yield f"deployment {service.name!r}: {problem}"
    yield from _twice("deployment", (service.name for service in snapshot.services))
    yield from _twice("host", hosts_of(snapshot))
    yield from _twice("endpoint", (each.id for each in _endpoints(snapshot)))
    yield from _twice("address", (place(each.address) for each in _endpoints(snapshot)))


def hosts_of(snapshot: Snapshot) -> Iterator[str]:
    """Every host that the snapshot takes, those of previews too."""
    for service in snapshot.services:
        yield f"{service.name}.{snapshot.domain}"
        yield f"preview.{service.name}.{snapshot.domain}"
        yield from service.hosts


def place(address: UnixAddress | TcpAddress) -> str:
    """The address in one word."""
    return address.path if isinstance(address, UnixAddress) else f"{address.host}:{address.port}"


def _endpoints(snapshot: Snapshot) -> Iterator[Endpoint]:
    for service in snapshot.services:
        for endpoints in service.endpoints.values():
            yield from endpoints


def _wrong_itself(service: Service) -> Iterator[str]:
    if not _is(Name, service.name):
        yield "its name is no DNS label of at most 40 characters"
    if not 0 < service.timeout_s <= 86_400:
        yield f"a timeout of {service.timeout_s} s is not between 0 and a day"
    for host in service.hosts:
        if not _is(HostName, host):
            yield f"host {host!r} is no host name; only `*.` or `*-` in front may stand for more"


def _is(kind: Any, text: str) -> bool:
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError:
        return False
    return True


def _wrong_traffic(service: Service) -> Iterator[str]:
    for revision, weight in service.weights.items():
        if weight < 0:
            yield f"revision {revision} has the weight {weight}"
        if revision not in service.endpoints:
            yield f"revision {revision} has a weight and no endpoints"
    if sum(service.weights.values()) > _MOST_WEIGHT:
        yield "its weights are too large"
    if service.preview is not None and service.preview not in service.endpoints:
        yield f"revision {service.preview} is the preview and has no endpoints"
    if any(revision < 0 for revision in service.endpoints):
        yield "a revision's number is negative"


def _wrong_endpoints(service: Service) -> Iterator[str]:
    for endpoint in (each for endpoints in service.endpoints.values() for each in endpoints):
        if not _ENDPOINT.fullmatch(endpoint.id):
            yield f"{endpoint.id!r} is no name of an endpoint"
        match endpoint.address:
            case UnixAddress(path):
                if not PurePosixPath(path).is_absolute() or len(path.encode()) > PATH_LIMIT or "\0" in path:
                    yield f"{path!r} is no absolute path of at most {PATH_LIMIT} bytes"
            case TcpAddress(host, port):
                if not host or not 0 < port < 65_536:
                    yield f"{host!r} port {port} is no address"


def _twice(what: str, names: Iterator[str]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if times > 1:
            yield f"{what} {name!r} is there {times} times"
