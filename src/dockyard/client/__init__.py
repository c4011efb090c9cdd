"""The typed client of the yard's API: what the command line, the dashboard and other Python programs speak through.

    async with Client(YardAddress.of(os.environ)) as yard:
        proposal = await yard.deploy(deployment, why="new weights")

One method a route; errors of the yard are raised as it raised them. Nothing is asked twice and no broken answer is
taken up again behind the caller's back: a follow that breaks ends with a YardGoneError.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from dockyard.client.address import YardAddress
from dockyard.client.connection import Connection, Patience
from dockyard.spec.deployment import Deployment
from dockyard.spec.requests import (
    ActionRequest,
    BlobOffer,
    DeployRequest,
    ImageOffer,
    RollbackRequest,
    ScaleRequest,
    TokenRequest,
)
from dockyard.spec.status import (
    AccessLine,
    AuditEntry,
    DeploymentStatus,
    DriftItem,
    Event,
    ImageTaken,
    ImageWanted,
    LoadHistory,
    LogLine,
    NewToken,
    Proposal,
    Revision,
    RolloutUpdate,
    Token,
    Top,
    YardInfo,
)

_Answer = TypeVar("_Answer")


class Client:
    """What one can ask of a yard. Use it as an async context manager."""

    def __init__(self, address: YardAddress, patience: Patience | None = None) -> None:
        self.address = address
        self._patience = patience or Patience()
        self._connection = Connection(address, self._patience)

    async def __aenter__(self) -> Client:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.__aexit__(kind, error, trace)

    async def info(self) -> YardInfo:
        """The yard, and who it takes the caller for."""
        return await self._get("/v1/yard", YardInfo)

    async def deployments(self) -> tuple[DeploymentStatus, ...]:
        """All deployments by name."""
        return await self._get("/v1/deployments", tuple[DeploymentStatus, ...])

    async def status(self, name: str) -> DeploymentStatus:
        """One deployment in detail; UnknownInYardError."""
        return await self._get(_path(name), DeploymentStatus)

    async def history(self, name: str) -> tuple[Revision, ...]:
        """All revisions, the newest first."""
        return await self._get(_path(name, "history"), tuple[Revision, ...])

    async def drift(self, name: str = "") -> tuple[DriftItem, ...]:
        """What runs otherwise than it was asked for, in one deployment or in all."""
        return await self._get("/v1/drift", tuple[DriftItem, ...], deployment=name)

    async def top(self) -> Top:
        """The load of everything."""
        return await self._get("/v1/top", Top)

    async def load_history(self, name: str, *, since_s: int = 3_600, step_s: int = 0) -> LoadHistory:
        """One deployment's load over the last seconds, at most a day, in steps (0: the yard chooses their length)."""
        return await self._get(_path(name, "load"), LoadHistory, since_s=since_s, step_s=step_s)

    async def metrics(self) -> bytes:
        """Prometheus' text format."""
        return await self._connection.read("GET", "/metrics", self._patience.read)

    def rollout(self, name: str, number: int | None = None) -> AsyncGenerator[RolloutUpdate, None]:
        """Follow a rollout to its receipt: the one under way (or the last), or that of a number."""
        return self._connection.lines(_path(name, "rollout"), RolloutUpdate, {"number": number})

    def events(self, since: int = 0, *, deployment: str = "", follow: bool = False) -> AsyncGenerator[Event, None]:
        """What happened after event number `since`."""
        return self._connection.lines("/v1/events", Event, {"since": since, "deployment": deployment, "follow": follow})

    def logs(
        self, name: str, *, replica: str = "", tail: int | None = None, follow: bool = False
    ) -> AsyncGenerator[LogLine, None]:
        """What a deployment's replicas write."""
        query = {"replica": replica, "tail": tail, "follow": follow}
        return self._connection.lines(_path(name, "logs"), LogLine, query)

    async def access(
        self, name: str, *, status: str = "", revision: int | None = None, tail: int = 100
    ) -> tuple[AccessLine, ...]:
        """The last requests to a deployment, the oldest first. `status` is a whole one (`404`) or a class (`5xx`)."""
        query = {"status": status, "revision": revision, "tail": tail}
        return await self._get(_path(name, "access"), tuple[AccessLine, ...], **query)

    def follow_access(
        self, name: str, *, status: str = "", revision: int | None = None, tail: int = 100
    ) -> AsyncGenerator[AccessLine, None]:
        """The same, and then each new request as it is answered."""
        query = {"status": status, "revision": revision, "tail": tail, "follow": True}
        return self._connection.lines(_path(name, "access"), AccessLine, query)

    async def deploy(
        self, deployment: Deployment, *, why: str = "", dry_run: bool = False, only_new: bool = False
    ) -> Proposal:
        """Make or change a deployment. YardConflictError names the rollout under way; PolicyError names its rule."""
        body = DeployRequest(deployment=deployment, why=why, dry_run=dry_run, only_new=only_new)
        return await self._change("/v1/deployments", body, Proposal)

    async def rollback(
        self, name: str, revision: int | None = None, *, why: str = "", dry_run: bool = False
    ) -> Proposal:
        """Give the traffic back to an earlier revision."""
        body = RollbackRequest(revision=revision, why=why, dry_run=dry_run)
        return await self._change(_path(name, "rollback"), body, Proposal)

    async def scale(self, name: str, replicas: int, *, why: str = "") -> Proposal:
        """Ask for another number of replicas."""
        return await self._change(_path(name, "scale"), ScaleRequest(replicas=replicas, why=why), Proposal)

    async def restart(self, name: str, *, why: str = "") -> Proposal:
        """Replace all replicas without a gap."""
        return await self._change(_path(name, "restart"), ActionRequest(why=why), Proposal)

    async def promote(self, name: str, *, why: str = "") -> Proposal:
        """Let the revision in preview have the traffic."""
        return await self._change(_path(name, "promote"), ActionRequest(why=why), Proposal)

    async def abort(self, name: str, *, why: str = "") -> Proposal:
        """Give up the rollout under way."""
        return await self._change(_path(name, "abort"), ActionRequest(why=why), Proposal)

    async def delete(self, name: str, *, why: str = "") -> Proposal:
        """Stop and remove a deployment."""
        return await self._connection.ask("DELETE", _path(name), Proposal, self._patience.change, query={"why": why})

    async def image_wanted(self, offer: ImageOffer) -> ImageWanted:
        """Which blobs of an image the yard lacks."""
        return await self._change("/v1/images/wanted", offer, ImageWanted)

    async def send_blob(self, blob: BlobOffer, parts: AsyncIterable[bytes]) -> ImageTaken:
        """Send one blob, as its bytes come. ImageError when they are not those of its digest."""
        return await self._connection.send(f"/v1/images/blobs/{blob.digest}", ImageTaken, parts, {"size": blob.size})

    async def send_image(self, offer: ImageOffer) -> ImageTaken:
        """Let the yard take in an image of which it lacks no blob any more."""
        return await self._change("/v1/images", offer, ImageTaken)

    async def audit(self, since: int = 0, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Entries of the audit log; a negative `since` counts from the end."""
        return await self._get("/v1/audit", tuple[AuditEntry, ...], since=since, limit=limit)

    def export_audit(self) -> AsyncGenerator[bytes, None]:
        """The whole audit log, as a verifier reads it."""
        return self._connection.file("GET", "/v1/audit/export", {})

    async def tokens(self) -> tuple[Token, ...]:
        """All tokens, without secrets."""
        return await self._get("/v1/tokens", tuple[Token, ...])

    async def create_token(self, request: TokenRequest) -> NewToken:
        """Make one; its secret is told this once."""
        return await self._change("/v1/tokens", request, NewToken)

    async def revoke_token(self, name: str, *, why: str = "") -> Token:
        """End one, by name or ID."""
        path = f"/v1/tokens/{quote(name, safe='')}"
        return await self._connection.ask("DELETE", path, Token, self._patience.change, query={"why": why})

    def backup(self, *, images: bool = True, why: str = "") -> AsyncGenerator[bytes, None]:
        """Everything that a restore needs, as the bytes of one file."""
        return self._connection.file("POST", "/v1/backup", {"images": images, "why": why}, prepared=True)

    async def _get(self, path: str, kind: type[_Answer], **query: Any) -> _Answer:
        return await self._connection.ask("GET", path, kind, self._patience.read, query=query)

    async def _change(self, path: str, body: msgspec.Struct, kind: type[_Answer]) -> _Answer:
        return await self._connection.ask("POST", path, kind, self._patience.change, body=msgspec.json.encode(body))


def _path(name: str, action: str = "") -> str:
    path = f"/v1/deployments/{quote(name, safe='')}"
    return f"{path}/{action}" if action else path


__all__ = ["Client", "Patience", "YardAddress"]
