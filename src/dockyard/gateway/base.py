"""The gateway's interface and its nouns: what the yard asks for, whatever proxy stands behind it.

`envoy.Gateway` implements it. The yard knows this file, `snapshot` and `addresses`, nothing else of the package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dockyard.gateway.snapshot import Snapshot

MIB = 1 << 20
UPSTREAM_IDLE_S = 4.0
"""An unused connection to a replica is closed after so long: before uvicorn's 5 s, and berth's 620 s, run out. Nothing
of the gateway's is left in a replica that has been without requests for longer than this, so it may be frozen."""


@dataclass(frozen=True)
class Limits:
    """The bounds of the gateway: of everything, of one deployment's revision, of one connection."""

    connections: int = 20_000
    heap_bytes: int = 1024 * MIB
    revision_connections: int = 4096
    """Also how many requests may wait: no more than a replica's socket queues while it starts."""
    revision_requests: int = 8192
    streams: int = 128
    """Requests at once on one HTTP/2 connection."""
    header_kib: int = 60
    header_count: int = 100
    header_timeout_s: float = 10.0
    idle_timeout_s: float = 620.0
    """Of a caller's connection between requests; more than the 600 s after which cloud load balancers close theirs."""
    access_log_bytes: int = 32 * MIB
    """When the access log is larger it becomes `access.log.1`, and a new one begins."""
    access_log_files: int = 4
    """How many older ones are kept."""


@dataclass(frozen=True)
class GatewaySettings:
    """Where the gateway listens and keeps its files. `folder` is its own, absolute and short (unix sockets are in it).

    `workers`: threads that carry requests; 0: one for each core, where it stays.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 0
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Counts:
    """What the gateway counted of one endpoint since it knows it.

    `total`: requests sent to it; `errors`: of these, answered with 5xx or not at all; `unreachable`: connections that
    could not be made. `ejected`: it gets no requests for the moment, because it broke several in a row.
    """

    in_flight: int
    total: int
    errors: int
    unreachable: int
    ejected: bool

    def joined(self, other: Counts) -> Counts:
        """What both counted of one endpoint."""
        return Counts(
            self.in_flight + other.in_flight,
            self.total + other.total,
            self.errors + other.errors,
            self.unreachable + other.unreachable,
            self.ejected or other.ejected,
        )


class Gateway(Protocol):
    """Routes requests to replicas. It goes on doing so when its owner is gone, and is adopted by the next one."""

    @property
    def address(self) -> str:
        """`http://HOST:PORT`."""

    @property
    def access_log(self) -> Path:
        """Where it notes every request, a JSON object a line. Older files are beside it: `NAME.1` is the youngest."""

    async def apply(self, snapshot: Snapshot) -> None:
        """Make it route this, and return when it does; GatewayError with the reason when it refuses or is too slow.

        After an error everything is as it was before. StoreError: it is live, and could not be kept on disk.
        """

    async def counts(self) -> Mapping[str, Counts]:
        """By endpoint id, for all that the accepted snapshot has; GatewayError when the gateway does not answer."""

    async def drained(self, endpoints: Collection[str], deadline_s: float) -> Mapping[str, int]:
        """Wait until none of these has a request in flight; those that still have some at the deadline, with how many.

        They must be draining or without weight in the accepted snapshot, else new requests keep coming.
        """

    async def metrics(self) -> str:
        """What it counted, in Prometheus's text form, labelled by deployment and revision."""

    async def close(self) -> None:
        """Let go of it; it goes on routing."""

    async def stop(self) -> None:
        """End it: it takes no new connections, requests in flight finish within 10 s, the process ends."""
