"""Envoy's administration interface, over its unix socket: is it there, what did it count, open your log anew.

Each question is a connection of its own in a thread, for it is asked a few times a second at most. Called by `envoy`.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dockyard.errors import GatewayError
from dockyard.gateway.base import Counts

DEADLINE_S = 5.0
_ANSWER_LIMIT = 256 << 20


@dataclass(frozen=True)
class Admin:
    """Asks at one socket. Every method raises GatewayError when nobody answers there in time."""

    socket: Path

    async def live(self) -> bool:
        """Whether it has its configuration and serves."""
        return (await self._ask("GET", "/ready", accept=503)).strip() == b"LIVE"

    async def counts(self) -> Mapping[str, Counts]:
        """What was counted of each endpoint, by its id."""
        answer = await self._ask("GET", "/clusters?format=json")
        try:
            statuses = msgspec.json.decode(answer, type=_Clusters).cluster_statuses
        except msgspec.MsgspecError as error:
            raise self._failed(f"it answers with something else: {error}") from error
        return _counted(statuses)

    async def metrics(self) -> str:
        """Everything it counted that is not zero for want of use, as Prometheus reads it."""
        return (await self._ask("GET", "/stats/prometheus?usedonly")).decode("utf-8", "replace")

    async def reopen_logs(self) -> None:
        """Open the access log under its name again, after it was renamed."""
        await self._ask("POST", "/reopen_logs")

    async def drain(self) -> None:
        """Take no new connections; those that are there stay."""
        await self._ask("POST", "/drain_listeners")

    async def _ask(self, method: str, path: str, *, accept: int = 200) -> bytes:
        return await asyncio.to_thread(self._ask_blocking, method, path, accept)

    def _ask_blocking(self, method: str, path: str, accept: int) -> bytes:
        connection = _UnixConnection(self.socket)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read(_ANSWER_LIMIT)
        except (OSError, http.client.HTTPException) as error:
            raise self._failed(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        if response.status not in {200, accept}:
            raise self._failed(f"{path} is answered with {response.status}")
        return body

    def _failed(self, why: str) -> GatewayError:
        return GatewayError(
            f"the gateway does not answer at {self.socket}: {why}",
            remedy="It is started again at once when it has ended; envoy.log beside the socket says why it did.",
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("gateway", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Stat(msgspec.Struct):
    name: str
    value: str = "0"


class _Host(msgspec.Struct):
    hostname: str = ""
    stats: tuple[_Stat, ...] = ()
    health_status: dict[str, Any] = {}


class _Cluster(msgspec.Struct):
    name: str
    host_statuses: tuple[_Host, ...] = ()


class _Clusters(msgspec.Struct):
    cluster_statuses: tuple[_Cluster, ...] = ()


def _counted(clusters: tuple[_Cluster, ...]) -> Mapping[str, Counts]:
    """An endpoint may be in two clusters, its revision's and the pool, which count apart."""
    counted: dict[str, Counts] = {}
    for host in (host for cluster in clusters for host in cluster.host_statuses if host.hostname):
        found = {stat.name: int(stat.value) for stat in host.stats}
        counts = Counts(
            in_flight=found.get("rq_active", 0),
            total=found.get("rq_total", 0),
            errors=found.get("rq_error", 0),
            unreachable=found.get("cx_connect_fail", 0),
            ejected=bool(host.health_status.get("failed_outlier_check")),
        )
        known = counted.get(host.hostname)
        counted[host.hostname] = known.joined(counts) if known else counts
    return counted
