"""A yard that only remembers: what `Operations` asks for, without engines or a gateway.

It stands behind the real API in tests of the API, the client and what verbs print; it is never the thing tested. Tests
change its attributes to say what the yard would tell.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as ThreadEvent
from threading import Thread
from typing import Any

import msgspec

from dockyard.errors import DockyardError, UnauthenticatedError, UnknownInYardError, YardConflictError
from dockyard.spec.deployment import Deployment
from dockyard.spec.requests import BlobOffer, ImageOffer, TokenRequest
from dockyard.spec.status import (
    AccessLine,
    AuditEntry,
    DeploymentStatus,
    Difference,
    DriftItem,
    Event,
    ImageTaken,
    ImageWanted,
    Load,
    LoadHistory,
    LoadStep,
    LogLine,
    NewToken,
    Problem,
    Proposal,
    Receipt,
    Replica,
    ReplicaLoad,
    Revision,
    Rollout,
    RolloutUpdate,
    Scope,
    Share,
    Token,
    Top,
    YardInfo,
)
from dockyard.yard.api import serving
from dockyard.yard.api_listen import Listener, UnixListener
from dockyard.yard.api_streams import Limits
from dockyard.yard.operations import Actor, Cause, Peer, Refusal

NOW = 1_800_000_000.0
TOKENS = {f"token-{scope}": scope for scope in Scope}
"""Those that let somebody in; `expired` and everything else does not."""


def access_line(number: int, code: int) -> AccessLine:
    """A request to revision `number`, whose path tries to colour the terminal."""
    time = f"2027-01-15T08:00:0{number}.000Z"
    return AccessLine(time=time, status=code, revision=number, method="POST", path="/x\x1b[31m", duration_us=1500)


@dataclass
class MemoryYard:
    """See the module. `asked` are the calls that changed something; `refusals` those that the API turned away."""

    names: dict[str, DeploymentStatus] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    failing: DockyardError | Exception | None = None
    """Raised by whatever is asked next, and from then on."""
    updates: list[RolloutUpdate] = field(default_factory=list)
    event_list: list[Event] = field(default_factory=list)
    drifting: tuple[DriftItem, ...] = ()
    endless: bool = False
    """Streams that follow never end."""
    breaking: DockyardError | Exception | None = None
    """Raised in the middle of an answer that goes on."""
    differences: tuple[Difference, ...] = ()
    """What a deploy changes, beside the image."""
    slow_s: float = 0.0
    unix_scope: Scope | None = Scope.ADMIN
    """What callers on the unix socket may do without a token."""
    closed_streams: int = 0
    rate: float = 12.5
    """Requests a second, as `top` tells them."""
    asked_of_history: tuple[int, int] = (0, 0)
    """`since_s` and `step_s` of the last question about the load over time."""

    async def authenticate(self, peer: Peer) -> Actor:
        if peer.token:
            if peer.token == "expired":
                raise UnauthenticatedError("the token has expired", remedy="Ask for a new one.")
            if peer.token not in TOKENS:
                raise UnauthenticatedError("the token is not known here", remedy="Ask for one.")
            return Actor(f"token {TOKENS[peer.token]}", TOKENS[peer.token])
        if peer.uid is None or self.unix_scope is None:
            raise UnauthenticatedError("no token was sent", remedy="Set DOCKYARD_TOKEN.")
        return Actor(f"uid {peer.uid}", self.unix_scope)

    async def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    async def info(self, actor: Actor) -> YardInfo:
        await self._pass()
        return YardInfo(version="1", host="here", started=NOW, you=actor.name, scope=actor.scope)

    async def deployments(self) -> tuple[DeploymentStatus, ...]:
        await self._pass()
        return tuple(self.names.values())

    async def status(self, name: str) -> DeploymentStatus:
        await self._pass()
        return self._known(name)

    async def history(self, name: str) -> tuple[Revision, ...]:
        await self._pass()
        return self._known(name).revisions

    async def rollout(self, name: str, number: int | None) -> AsyncIterator[RolloutUpdate]:
        self._known(name)
        for update in self.updates:
            yield update
        async for _ in self._rest():
            yield self.updates[-1]

    async def events(self, since: int, *, deployment: str, follow: bool) -> AsyncIterator[Event]:
        await self._pass()
        try:
            for event in self.event_list:
                if event.number > since and deployment in {"", event.deployment}:
                    yield event
            if follow:
                async for _ in self._rest():
                    yield Event(number=1, at=NOW, kind="never", what="never")
        finally:
            self.closed_streams += 1

    async def logs(self, name: str, *, replica: str, tail: int | None, follow: bool) -> AsyncIterator[LogLine]:
        for each in self._known(name).replicas:
            if replica in {"", each.id}:
                yield LogLine(replica=each.id, revision=each.revision, line=f"hello from {each.id} \x1b[31m")
        if follow:
            async for _ in self._rest():
                yield LogLine(replica="never", line="never")

    async def access(self, name: str, *, status: str, revision: int | None, tail: int) -> tuple[AccessLine, ...]:
        await self._pass()
        self._known(name)
        lines = [access_line(number, code) for number, code in ((1, 200), (2, 503))]
        return tuple(each for each in lines if status in {"", str(each.status), f"{str(each.status)[0]}xx"})[-tail:]

    async def follow_access(
        self, name: str, *, status: str, revision: int | None, tail: int
    ) -> AsyncIterator[AccessLine]:
        for line in await self.access(name, status=status, revision=revision, tail=tail):
            yield line
        async for _ in self._rest():
            yield access_line(9, 200)

    async def drift(self, name: str) -> tuple[DriftItem, ...]:
        await self._pass()
        return self.drifting

    async def top(self) -> Top:
        await self._pass()
        load = ReplicaLoad(id="iris-1", revision=1, phase="ready", requests_per_second=self.rate, memory=2**20)
        return Top(at=NOW, window_s=10.0, deployments=(Load(deployment="iris", p99_ms=4.25, replicas=(load,)),))

    async def load_history(self, name: str, since_s: int, step_s: int) -> LoadHistory:
        await self._pass()
        self._known(name)
        self.asked_of_history = (since_s, step_s)
        seen = LoadStep(
            at=NOW, requests_per_second=12.5, errors_per_second=0.25, p50_ms=1.5, p99_ms=4.25, in_flight=0.5,
            ready=1.5, cpus=0.25, memory=2**20,
        )  # fmt: skip
        before, after = (LoadStep(at=NOW + seconds) for seconds in (-600, 600))
        return LoadHistory(deployment=name, step_s=600, steps=() if name == "quiet" else (before, seen, after))

    async def metrics(self) -> bytes:
        await self._pass()
        return b"# TYPE yard_up gauge\nyard_up 1\n"

    async def deploy(
        self, deployment: Deployment, cause: Cause, *, dry_run: bool = False, only_new: bool = False
    ) -> Proposal:
        await self._pass()
        if only_new and deployment.name in self.names:
            raise YardConflictError(f"there is a deployment {deployment.name!r} already", remedy="Choose another name.")
        self.asked.append(("deploy", (deployment, cause, dry_run)))
        before = self.names.get(deployment.name)
        return Proposal(
            deployment=deployment.name,
            kind="update" if before else "create",
            revision=2 if before else 1,
            previous=1 if before else None,
            differences=(
                Difference(key="image", before=before.image if before else None, after=deployment.image),
                *self.differences,
            ),
            steps=("start 1 replica of the new revision",),
            notes=("nobody signed it",),
            dry_run=dry_run,
            rollout=None if dry_run else 7,
        )

    async def rollback(self, name: str, revision: int | None, cause: Cause, *, dry_run: bool = False) -> Proposal:
        await self._pass()
        if revision is not None and revision > 2:
            raise UnknownInYardError(f"{name} has no revision {revision}", remedy="It has 1 and 2.")
        return self._changed("rollback", name, cause, dry_run=dry_run)

    async def scale(self, name: str, replicas: int, cause: Cause) -> Proposal:
        await self._pass()
        proposal = self._changed("scale", name, cause)
        one = replica(1)
        replicas_now = tuple(msgspec.structs.replace(one, id=f"{name}-{n}") for n in range(replicas))
        self.names[name] = msgspec.structs.replace(
            self.names[name], wanted=replicas, ready=replicas, replicas=replicas_now
        )
        return msgspec.structs.replace(proposal, rollout=None)

    async def restart(self, name: str, cause: Cause) -> Proposal:
        await self._pass()
        return self._changed("restart", name, cause)

    async def promote(self, name: str, cause: Cause) -> Proposal:
        await self._pass()
        return self._changed("promote", name, cause)

    async def abort(self, name: str, cause: Cause) -> Proposal:
        await self._pass()
        return self._changed("abort", name, cause)

    async def delete(self, name: str, cause: Cause) -> Proposal:
        await self._pass()
        proposal = self._changed("delete", name, cause)
        del self.names[name]
        return msgspec.structs.replace(proposal, rollout=None)

    async def audit(self, since: int, limit: int) -> tuple[AuditEntry, ...]:
        await self._pass()
        return (AuditEntry(number=3, at=NOW, who="uid 0", action="deploy", target="iris", why=f"{since} {limit}"),)

    async def export_audit(self) -> AsyncIterator[bytes]:
        yield b'{"number":0}\n'
        if self.breaking is not None:
            raise self.breaking
        yield b"\nthe end\n"

    async def image_wanted(self, offer: ImageOffer) -> ImageWanted:
        await self._pass()
        return ImageWanted(known=True)

    async def receive_blob(self, blob: BlobOffer, parts: AsyncIterator[bytes], cause: Cause) -> ImageTaken:
        await self._pass()
        size = sum([len(part) async for part in parts])
        self.asked.append(("receive_blob", (blob, size)))
        return ImageTaken(digest=blob.digest, size=size)

    async def receive_image(self, offer: ImageOffer, cause: Cause) -> ImageTaken:
        await self._pass()
        self.asked.append(("receive_image", (offer, cause)))
        return ImageTaken(digest=offer.manifest.digest, size=offer.manifest.size)

    async def tokens(self) -> tuple[Token, ...]:
        await self._pass()
        return (token("ci"),)

    async def create_token(self, request: TokenRequest, cause: Cause) -> NewToken:
        await self._pass()
        self.asked.append(("create_token", (request, cause)))
        return NewToken(token=token(request.name), secret="dyt_secret")

    async def revoke_token(self, name: str, cause: Cause) -> Token:
        await self._pass()
        if name != "ci":
            raise UnknownInYardError(f"there is no token {name!r}", remedy="There is: ci.")
        self.asked.append(("revoke_token", (name, cause)))
        return msgspec.structs.replace(token(name), revoked=NOW)

    async def backup(self, cause: Cause, *, images: bool) -> AsyncIterator[bytes]:
        await asyncio.sleep(self.slow_s)
        if self.failing is not None:
            raise self.failing
        yield b"a" * 100_000
        if self.breaking is not None:
            raise self.breaking
        yield json.dumps({"images": images}).encode()

    async def _pass(self) -> None:
        if self.failing is not None:
            raise self.failing
        await asyncio.sleep(self.slow_s)

    async def _rest(self) -> AsyncIterator[None]:
        if self.breaking is not None:
            raise self.breaking
        while self.endless:
            await asyncio.sleep(3600)
        return
        yield

    def _known(self, name: str) -> DeploymentStatus:
        if name not in self.names:
            raise UnknownInYardError(f"there is no deployment {name!r}", remedy=f"There are: {', '.join(self.names)}.")
        return self.names[name]

    def _changed(self, kind: str, name: str, cause: Cause, *, dry_run: bool = False) -> Proposal:
        self._known(name)
        self.asked.append((kind, (name, cause)))
        return Proposal(
            deployment=name, kind=kind, revision=2, previous=1, dry_run=dry_run, rollout=None if dry_run else 7
        )


def token(name: str) -> Token:
    return Token(id="0a1b", name=name, scope=Scope.OPERATOR, created=NOW, expires=NOW + 10, created_by="uid 0")


def replica(revision: int, *, phase: str = "ready", ident: str = "iris-1") -> Replica:
    return Replica(
        id=ident,
        revision=revision,
        phase=phase,
        since=NOW,
        routed=True,
        in_flight=3,
        container="c0ffee" * 8,
        engine="runc",
    )


def status(name: str = "iris", **changes: Any) -> DeploymentStatus:
    """A healthy deployment of one replica."""
    image = f"iris:1@sha256:{'ab' * 32}"
    told = DeploymentStatus(
        name=name,
        state="healthy",
        image=image,
        wanted=1,
        ready=1,
        active=1,
        created=NOW,
        changed=NOW,
        revisions=(
            Revision(number=1, image=image, state="active", state_since=NOW, created=NOW, who="uid 0", why="first"),
        ),
        replicas=(replica(1),),
        traffic=(Share(revision=1, weight=100),),
        urls=(f"http://127.0.0.1:8080/v2/models/{name}",),
        asked=Deployment(name=name, image=image, environment={"KEPT": "yes"}),
    )
    return msgspec.structs.replace(told, **changes)


def update(phase: str, progress: float = 0.5, *, receipt: Receipt | None = None, **changes: Any) -> RolloutUpdate:
    """How far rollout 7, from revision 1 to 2, is."""
    rollout = Rollout(
        id=7, source=1, target=2, strategy="rolling", phase=phase, since=NOW, started=NOW, progress=progress,
        message=f"now {phase}", ready=int(progress), wanted=1,
    )  # fmt: skip
    told = RolloutUpdate(
        at=NOW + 1,
        rollout=rollout,
        replicas=(replica(1), replica(2, phase="starting", ident="iris-2")),
        traffic=(Share(revision=1, weight=100), Share(revision=2, weight=0)),
        receipt=receipt,
    )
    return msgspec.structs.replace(told, **changes)


def receipt(outcome: str = "done", **changes: Any) -> Receipt:
    """The receipt of rollout 7."""
    told = Receipt(
        rollout=7, deployment="iris", source=1, target=2, strategy="rolling", outcome=outcome, started=NOW, seconds=2.5,
        requests_old=1200, requests_new=34, in_flight_at_switch=2, p50_before_ms=1.0, p50_after_ms=1.1,
        p99_before_ms=4.0, p99_after_ms=3.5,
    )  # fmt: skip
    return msgspec.structs.replace(told, **changes)


def problem() -> Problem:
    """A replica that could not load its model."""
    return Problem(
        at=time.time(), what="it ended with exit code 3", reason="exit", replica="iris-2", log=("no such file",)
    )


@contextmanager
def running(yard: MemoryYard, *listeners: Listener, limits: Limits | None = None) -> Iterator[tuple[str, ...]]:
    """The real API in front of it, in a thread; gives the addresses. For what runs in other processes."""
    ready, stop = ThreadEvent(), ThreadEvent()
    found: list[str] = []
    failed: list[BaseException] = []

    async def serve() -> None:
        async with serving(yard, listeners, limits) as addresses:
            found.extend(addresses)
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.02)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = Thread(target=run)
    thread.start()
    try:
        assert ready.wait(10)
        if failed:
            raise failed[0]
        yield tuple(found)
    finally:
        stop.set()
        thread.join(20)


def on_unix(path: Path) -> UnixListener:
    """A listener on a unix socket."""
    return UnixListener(path)
