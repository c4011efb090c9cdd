"""The ADS server: tells Envoy its configuration, in an order in which no request is ever without a way.

One gRPC stream carries all kinds (aggregated discovery, state of the world): Envoy asks for a kind, gets all of it, and
acknowledges or refuses with the reason. See https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol. A second
Envoy, while one replaces another, is told the same; only the answers of the one that is `awaited` count. Called by
`envoy`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from dockyard.errors import DockyardError, GatewayError, PortTakenError
from dockyard.gateway.base import GatewaySettings
from dockyard.gateway.resources import Kind, Packed, Resources, resources_of
from dockyard.gateway.snapshot import Snapshot

DEADLINE_S = 10.0
_CLOSE_S = 0.5
RESTORE_DEADLINE_S = 2.0
_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_ALL_BY_DEFAULT = {Kind.CLUSTERS, Kind.LISTENERS}


class Ads:
    """Serves on a unix socket, once it is started."""

    def __init__(self, socket: Path, settings: GatewaySettings) -> None:
        self._socket = socket
        self._settings = settings
        self.awaited = ""
        """The node whose answers count; empty: whoever came last."""
        self._accepted: Snapshot | None = None
        self._told: dict[Kind, Packed] = {}
        self._stream: _Stream | None = None
        self._streams: set[_Stream] = set()
        self._news = asyncio.Condition()
        self._turn = asyncio.Lock()
        self._server: Any = None

    @property
    def accepted(self) -> Snapshot | None:
        """What Envoy acknowledged last, all of it."""
        return self._accepted

    async def start(self, last: Snapshot | None = None) -> None:
        """Listen; GatewayError when the socket cannot be made.

        `last`: what an Envoy that runs has accepted already, or one that starts shall begin with.
        """
        self._accepted = last
        if last is not None:
            self._told = _all_of(resources_of(last, self._settings))
        self._server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=DiscoveryRequest.FromString,
            response_serializer=DiscoveryResponse.SerializeToString,
        )
        methods = grpc.method_handlers_generic_handler(_SERVICE, {"StreamAggregatedResources": handler})
        self._server.add_generic_rpc_handlers((methods,))
        try:
            self._server.add_insecure_port(f"unix:{self._socket}")
            await self._server.start()
            self._socket.chmod(0o600)
        except (RuntimeError, OSError) as error:
            raise GatewayError(
                f"the gateway's configuration cannot be served on {self._socket}: {error}",
                remedy="Check that this user may write to its folder, and that the disk has room.",
            ) from error

    async def close(self) -> None:
        """Hang up; Envoy keeps what it was told. Streams end by themselves: gRPC complains of those that it ends."""
        for stream in self._streams:
            stream.end()
        if self._server is not None:
            await self._server.stop(_CLOSE_S)

    async def publish(self, snapshot: Snapshot, deadline_s: float = DEADLINE_S) -> None:
        """Make Envoy route this, and return once it does.

        GatewayError when the snapshot contradicts itself, with Envoy's own words when it refuses, or when it does not
        answer in time; PortTakenError when it cannot listen. Then it is told again what it was told before.
        """
        snapshot.consistent()
        async with self._turn:
            before, told = self._accepted, dict(self._told)
            try:
                async with asyncio.timeout(deadline_s):
                    await self._move(before, snapshot)
            except TimeoutError as error:
                self._restore(told)
                raise _silent(deadline_s, connected=self._stream is not None) from error
            except BaseException as error:
                self._restore(told)
                if isinstance(error, DockyardError):
                    with contextlib.suppress(DockyardError):
                        await self.settled(RESTORE_DEADLINE_S)
                raise
            self._accepted = snapshot

    async def settled(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the newest Envoy has accepted all that was told last; errors as those of `publish`."""
        try:
            async with asyncio.timeout(deadline_s):
                for kind in Kind:
                    if kind in self._told:
                        await self._acknowledged(kind)
        except TimeoutError as error:
            raise _silent(deadline_s, connected=self._stream is not None) from error

    async def _move(self, before: Snapshot | None, snapshot: Snapshot) -> None:
        """First what is new, then the way to it, then away with what is old."""
        new = resources_of(snapshot, self._settings)
        wide = new
        if before is not None and self._leads_elsewhere(new):
            wide = resources_of(snapshot.widened(before), self._settings)
        await self._tell(wide, Kind.CLUSTERS, Kind.ENDPOINTS)
        await self._tell(new, Kind.LISTENERS)
        await self._tell(new, Kind.ROUTES)
        await self._tell(new, Kind.CLUSTERS, Kind.ENDPOINTS)

    def _leads_elsewhere(self, new: Resources) -> bool:
        told = self._told.get(Kind.ROUTES)
        return told is None or told.version != new.packed(Kind.ROUTES).version

    async def _tell(self, resources: Resources, *kinds: Kind) -> None:
        """Clusters and endpoints go together: Envoy acknowledges a new cluster when it has its endpoints."""
        self._told |= {kind: resources.packed(kind) for kind in kinds}
        if self._stream is not None:
            self._stream.wake.set()
        for kind in kinds:
            await self._acknowledged(kind)

    async def _acknowledged(self, kind: Kind) -> None:
        def answered() -> bool:
            if not self._told[kind].by_name and kind not in _ALL_BY_DEFAULT:
                return True  # without clusters nobody asks for endpoints
            return self._stream is not None and self._stream.answered(kind, self._told[kind])

        async with self._news:
            await self._news.wait_for(answered)

    def _restore(self, told: dict[Kind, Packed]) -> None:
        self._told = told
        if self._stream is not None:
            self._stream.wake.set()

    async def _serve(self, requests: AsyncIterator[Any], _: Any) -> AsyncIterator[Any]:
        """One Envoy's stream: a task hears what it says, this one tells it what is due."""
        stream = _Stream()
        self._streams.add(stream)
        hearing = asyncio.create_task(self._hear(requests, stream))
        try:
            while not stream.ended:
                stream.wake.clear()
                for response in stream.due(self._told):
                    yield response
                await stream.wake.wait()
        finally:
            self._streams.discard(stream)
            hearing.cancel()
            if self._stream is stream:
                self._stream = None

    async def _hear(self, requests: AsyncIterator[Any], stream: _Stream) -> None:
        try:
            async for request in requests:
                if request.HasField("node") and self.awaited in {"", request.node.id}:
                    self._stream = stream
                stream.heard(request)
                stream.wake.set()
                async with self._news:
                    self._news.notify_all()
        finally:
            stream.end()


def _all_of(resources: Resources) -> dict[Kind, Packed]:
    return {kind: resources.packed(kind) for kind in Kind}


@dataclass
class _Subscription:
    """What one Envoy asked for of one kind, what it was sent last, and what it said to that."""

    names: frozenset[str] = frozenset()
    sent: Packed | None = None
    sent_names: frozenset[str] = frozenset()
    nonce: str = ""
    acknowledged: bool = False
    refused: str = ""
    again: bool = False

    def wanted(self, kind: Kind, told: Packed) -> Mapping[str, Any]:
        """What to send: everything, or what was asked for by name."""
        if kind in _ALL_BY_DEFAULT:
            return told.by_name
        return {name: message for name, message in told.by_name.items() if name in self.names}


@dataclass(eq=False)
class _Stream:
    """One Envoy's side of the talk."""

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    _subscriptions: dict[Kind, _Subscription] = field(default_factory=dict)
    _nonces: int = 0

    def end(self) -> None:
        """It is over: let whoever waits for news see that."""
        self.ended = True
        self.wake.set()

    def heard(self, request: Any) -> None:
        """A first request, an acknowledgement or a refusal; what answers an older message than the last is stale."""
        try:
            kind = Kind(request.type_url)
        except ValueError:
            return
        subscription = self._subscriptions.setdefault(kind, _Subscription())
        if request.response_nonce != subscription.nonce:
            return
        subscription.names = frozenset(request.resource_names)
        if not subscription.nonce:
            return
        if request.HasField("error_detail"):
            subscription.refused = request.error_detail.message or "no reason given"
        else:
            subscription.acknowledged = True

    def due(self, told: Mapping[Kind, Packed]) -> Iterator[Any]:
        """The messages to send now, in the order of kinds."""
        for kind in Kind:
            subscription = self._subscriptions.get(kind)
            if subscription is None or kind not in told:
                continue
            packed = told[kind]
            wanted = subscription.wanted(kind, packed)
            if not wanted and kind not in _ALL_BY_DEFAULT:
                continue
            same = subscription.sent is not None and subscription.sent.version == packed.version
            if same and not subscription.again and subscription.sent_names >= wanted.keys():
                continue
            yield self._message(kind, subscription, packed, wanted)

    def _message(self, kind: Kind, subscription: _Subscription, packed: Packed, wanted: Mapping[str, Any]) -> Any:
        self._nonces += 1
        subscription.nonce = str(self._nonces)
        subscription.sent, subscription.sent_names = packed, frozenset(wanted)
        subscription.acknowledged, subscription.refused, subscription.again = False, "", False
        if kind is Kind.CLUSTERS and (endpoints := self._subscriptions.get(Kind.ENDPOINTS)):
            endpoints.again = True  # a cluster that changed waits for its endpoints, though they did not
        return DiscoveryResponse(
            version_info=packed.version,
            resources=wanted.values(),
            type_url=kind.value,
            nonce=subscription.nonce,
        )

    def answered(self, kind: Kind, told: Packed) -> bool:
        """Whether this was sent and accepted, all of it; GatewayError when it was sent and refused."""
        subscription = self._subscriptions.get(kind)
        if subscription is None or subscription.sent is None or subscription.sent.version != told.version:
            return False
        if subscription.refused:
            raise _refused(kind, subscription.refused)
        complete = subscription.sent_names >= told.by_name.keys() and not subscription.again
        return subscription.acknowledged and complete


def _refused(kind: Kind, text: str) -> GatewayError | PortTakenError:
    if "Address already in use" in text:
        return PortTakenError(
            "the gateway's port is in use", detail=text, remedy="Choose another port, or stop what listens there."
        )
    return GatewayError(
        f"the gateway refused the {kind.word} of its new configuration; it goes on with the one before",
        detail=text,
        remedy="Look for the deployment that it names, and undo its last change. If none is named, please report this.",
    )


def _silent(deadline_s: float, *, connected: bool) -> GatewayError:
    how = "does not acknowledge its configuration" if connected else "is not connected"
    return GatewayError(
        f"the gateway {how} after {deadline_s:g} s",
        remedy="Read envoy.log in the gateway's folder; if its process is stuck, stop it: it is started again at once.",
    )
