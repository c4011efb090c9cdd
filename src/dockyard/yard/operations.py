"""What can be asked of the yard, and who asks: the interface between the API and the yard's service.

`api` takes requests apart, checks them, and calls one method here; `service` does the work. Answers are the nouns of
`spec.status`. Every method may raise any DockyardError: `spec.failures` says which status each becomes. A method that
changes something takes a `Cause`, for the audit log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from dockyard.spec.deployment import Deployment
from dockyard.spec.requests import BlobOffer, ImageOffer, TokenRequest
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
    Scope,
    Token,
    Top,
    YardInfo,
)


@dataclass(frozen=True)
class Peer:
    """Who connected: by unix socket, as the user that the kernel vouches for, or over TLS. `token`: if one was sent."""

    address: str
    """`unix`, or the host that connected."""
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Actor:
    """A caller that is known: as the audit log names them (`uid 1000 (ada)`, `token ci`), and what they may do."""

    name: str
    scope: Scope


@dataclass(frozen=True)
class Cause:
    """Who changes something, and the reason that they gave."""

    actor: Actor
    why: str = ""


@dataclass(frozen=True)
class Refusal:
    """A call that was turned away before it reached the service. `actor` is None when nobody knows who called."""

    peer: Peer
    actor: Actor | None
    method: str
    path: str
    status: int
    why: str
    needed: Scope | None = None


class Access(Protocol):
    """Who is let in; every refused call is told, for the audit log."""

    async def authenticate(self, peer: Peer) -> Actor:
        """Who that is. UnauthenticatedError for a stranger, a wrong token, an expired or revoked one."""
        ...

    async def refused(self, refusal: Refusal) -> None:
        """Note a call that was turned away. Must not fail and not wait long."""
        ...


class Reading(Protocol):
    """What changes nothing."""

    async def info(self, actor: Actor) -> YardInfo:
        """The yard itself."""
        ...

    async def deployments(self) -> tuple[DeploymentStatus, ...]:
        """All deployments by name, without `asked`."""
        ...

    async def status(self, name: str) -> DeploymentStatus:
        """One deployment, with `asked`. UnknownInYardError, naming those that come close."""
        ...

    async def history(self, name: str) -> tuple[Revision, ...]:
        """All its revisions, the newest first, also of a deleted deployment."""
        ...

    def rollout(self, name: str, number: int | None) -> AsyncIterator[RolloutUpdate]:
        """How a rollout (None: the one under way, or the last) gets on: at once, and at every change until its end.

        The last update has a receipt; that of a rollout which is over is the only one. UnknownInYardError.
        """
        ...

    def events(self, since: int, *, deployment: str, follow: bool) -> AsyncIterator[Event]:
        """Events with a number above `since`, the oldest first; of one deployment, or of all with ""."""
        ...

    def logs(self, name: str, *, replica: str, tail: int | None, follow: bool) -> AsyncIterator[LogLine]:
        """What the replicas of a deployment write, all or one of them; following goes on over new replicas."""
        ...

    async def access(self, name: str, *, status: str, revision: int | None, tail: int) -> tuple[AccessLine, ...]:
        """The last requests to a deployment, the oldest first. `status`: `404`, `5xx` or "" for any."""
        ...

    def follow_access(self, name: str, *, status: str, revision: int | None, tail: int) -> AsyncIterator[AccessLine]:
        """The same, and then each new request."""
        ...

    async def drift(self, name: str) -> tuple[DriftItem, ...]:
        """What runs otherwise than it was asked for, in one deployment, or in all with ""."""
        ...

    async def top(self) -> Top:
        """The load of everything now."""
        ...

    async def load_history(self, name: str, since_s: int, step_s: int) -> LoadHistory:
        """The load of one deployment over the last seconds, in steps of `step_s` (0: the yard chooses).

        UnknownInYardError.
        """
        ...

    async def metrics(self) -> bytes:
        """Prometheus text format 0.0.4."""
        ...


class Changing(Protocol):
    """What changes deployments. YardConflictError names what is under way. A Proposal's `rollout` can be followed."""

    async def deploy(
        self, deployment: Deployment, cause: Cause, *, dry_run: bool = False, only_new: bool = False
    ) -> Proposal:
        """Make or change a deployment; with `dry_run`, check and tell as much, and change nothing."""
        ...

    async def rollback(self, name: str, revision: int | None, cause: Cause, *, dry_run: bool = False) -> Proposal:
        """Give the traffic back to an earlier revision (None: the one before)."""
        ...

    async def scale(self, name: str, replicas: int, cause: Cause) -> Proposal:
        """Ask for another number of replicas."""
        ...

    async def restart(self, name: str, cause: Cause) -> Proposal:
        """Replace all replicas of the active revision, without a gap."""
        ...

    async def promote(self, name: str, cause: Cause) -> Proposal:
        """Let the revision in preview have the traffic."""
        ...

    async def abort(self, name: str, cause: Cause) -> Proposal:
        """Give up the rollout under way; the traffic stays with, or goes back to, its source."""
        ...

    async def delete(self, name: str, cause: Cause) -> Proposal:
        """Stop and remove it; its history stays."""
        ...


class Receiving(Protocol):
    """How an image comes from a caller's store into the yard's: asked for, sent blob by blob, taken in as a whole."""

    async def image_wanted(self, offer: ImageOffer) -> ImageWanted:
        """Which blobs are lacking. StoreError when the disk has no room for them."""
        ...

    async def receive_blob(self, blob: BlobOffer, parts: AsyncIterator[bytes], cause: Cause) -> ImageTaken:
        """Keep a blob whose bytes these are. ImageError when they are others, too many or too few."""
        ...

    async def receive_image(self, offer: ImageOffer, cause: Cause) -> ImageTaken:
        """Take in an image whose blobs are all here. ImageError when one is not, or they are no image."""
        ...


class Governing(Protocol):
    """What is for admins."""

    async def audit(self, since: int, limit: int) -> tuple[AuditEntry, ...]:
        """At most `limit` entries from number `since` on, the oldest first; a negative one counts from the end."""
        ...

    def export_audit(self) -> AsyncIterator[bytes]:
        """The whole log with its checkpoint, as `audit verify` reads it."""
        ...

    async def tokens(self) -> tuple[Token, ...]:
        """All tokens, without secrets."""
        ...

    async def create_token(self, request: TokenRequest, cause: Cause) -> NewToken:
        """A new one. YardConflictError if the name is taken; no scope above the caller's own."""
        ...

    async def revoke_token(self, name: str, cause: Cause) -> Token:
        """End a token, by its name or ID. UnknownInYardError."""
        ...

    def backup(self, cause: Cause, *, images: bool) -> AsyncIterator[bytes]:
        """Everything that a restore needs, as one file's bytes; with or without the images themselves."""
        ...


class Operations(Access, Reading, Changing, Receiving, Governing, Protocol):
    """All that can be asked of a yard."""
