"""What the yard tells: deployments, revisions, replicas, rollouts, receipts, events, and the like, as frozen values.

`yard.api` writes them as JSON, `client` reads them, the command line and the dashboard show them. A field that a newer
yard adds is passed over, so phases and states are texts here (their words are those of `yard.state`), and every field
that was not there from the beginning has a default. Times are seconds since 1970, durations seconds, sizes bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct, field

from dockyard.spec.deployment import Deployment


class Noun(Struct, frozen=True, kw_only=True):
    """A value that the yard tells."""


class Scope(StrEnum):
    """What a caller may do; each includes the ones before it."""

    VIEWER = "viewer"
    """See everything but secrets, and change nothing."""
    OPERATOR = "operator"
    """Deploy, roll back, scale, restart, delete."""
    ADMIN = "admin"
    """Also make and revoke tokens, take backups, read the audit log."""

    @property
    def rank(self) -> int:
        """For comparison: a larger one may do more."""
        return list(Scope).index(self)

    def covers(self, needed: Scope) -> bool:
        """Whether a caller of this scope may do what needs that one."""
        return self.rank >= needed.rank


class Problem(Noun, frozen=True, kw_only=True):
    """Something that went wrong: what, the reason, and the last lines that the replica wrote."""

    at: float
    what: str
    reason: str = ""
    """In a word for programs: see `Event.reason`."""
    revision: int | None = None
    replica: str = ""
    log: tuple[str, ...] = ()


class Replica(Noun, frozen=True, kw_only=True):
    """One container of a revision, as it is now."""

    id: str
    revision: int
    phase: str
    since: float
    crashes: int = 0
    routed: bool = False
    """Whether the gateway sends requests to it."""
    in_flight: int = 0
    container: str = ""
    engine: str = ""


class Share(Noun, frozen=True, kw_only=True):
    """What part of the replicas that serve a deployment are a revision's, in percent.

    Of its requests that is about the part that the revision gets: each goes to whichever replica has the fewest.
    """

    revision: int
    weight: int
    preview: bool = False
    """It answers under the preview host and header."""


class Receipt(Noun, frozen=True, kw_only=True):
    """What a rollout did to requests; written once, at its end, and kept in the audit log."""

    rollout: int
    deployment: str
    source: int | None
    target: int
    strategy: str
    outcome: str
    """done, failed or aborted."""
    started: float
    seconds: float
    why: str = ""
    requests_old: int = 0
    requests_new: int = 0
    requests_shared: int = 0
    """While both served as one; which of them answered each is in the access log. Their latencies count as after."""
    in_flight_at_switch: int = 0
    dropped: int = 0
    """Answered with 5xx while it went on, errors of the model's own among them."""
    hold_s: float = 0.0
    """How long requests waited because old and new did not fit together."""
    p50_before_ms: float | None = None
    p50_after_ms: float | None = None
    p99_before_ms: float | None = None
    p99_after_ms: float | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the target has the traffic."""
        return self.outcome == "done"


class Revision(Noun, frozen=True, kw_only=True):
    """One immutable version of a deployment, and what became of it."""

    number: int
    image: str
    state: str
    state_since: float
    created: float
    who: str = ""
    why: str = ""
    outcome: str = ""
    """In a sentence: why it failed, that it was replaced and by which."""
    receipt: Receipt | None = None
    asked: Deployment | None = None
    """What was asked for with it; only in the status of one deployment."""


class Rollout(Noun, frozen=True, kw_only=True):
    """The move of traffic that is under way."""

    id: int
    source: int | None
    target: int
    strategy: str
    phase: str
    since: float
    """When the phase began."""
    started: float
    progress: float = 0.0
    """Between 0 and 1."""
    message: str = ""
    """What it does or waits for, in a sentence."""
    ready: int = 0
    wanted: int = 0
    """Replicas of the target."""
    deadline: float | None = None
    """When it is rolled back unless it gets further."""
    holding: bool = False


class DeploymentStatus(Noun, frozen=True, kw_only=True):
    """One deployment: what is asked of it, what is there, and how it goes."""

    name: str
    state: str
    """healthy, rolling out, degraded, failed, asleep (no replicas are asked for), deleting."""
    image: str
    """Of the active revision, or of the one that is to become active."""
    wanted: int
    ready: int
    active: int | None
    created: float
    changed: float
    revisions: tuple[Revision, ...] = ()
    """Those that have replicas or are being rolled out; `history` has all."""
    replicas: tuple[Replica, ...] = ()
    traffic: tuple[Share, ...] = ()
    rollout: Rollout | None = None
    problem: Problem | None = None
    """The last one, if the deployment still suffers from it."""
    urls: tuple[str, ...] = ()
    preview_urls: tuple[str, ...] = ()
    asked: Deployment | None = None


class Difference(Noun, frozen=True, kw_only=True):
    """A key of a deployment with what it is and what it would be; None where it is not there."""

    key: str
    before: Any = None
    after: Any = None


class Proposal(Noun, frozen=True, kw_only=True):
    """What a change does, or would do: `rollout` follows it, and is None where nothing was begun."""

    deployment: str
    kind: str
    """create, update, scale, rollback, restart, delete or nothing."""
    revision: int | None = None
    """The revision that gets, or would get, the traffic."""
    previous: int | None = None
    differences: tuple[Difference, ...] = ()
    steps: tuple[str, ...] = ()
    """What happens, in order, for people."""
    notes: tuple[str, ...] = ()
    """What to know before: memory that does not fit, policies that were not asked."""
    dry_run: bool = False
    rollout: int | None = None


class RolloutUpdate(Noun, frozen=True, kw_only=True):
    """How far a rollout is; the last one has its receipt."""

    at: float
    rollout: Rollout
    replicas: tuple[Replica, ...] = ()
    traffic: tuple[Share, ...] = ()
    problem: Problem | None = None
    receipt: Receipt | None = None


class Event(Noun, frozen=True, kw_only=True):
    """Something that happened. Numbers only grow, so a follower can go on from the last one that it saw."""

    number: int
    at: float
    kind: str
    what: str
    deployment: str = ""
    level: str = "info"
    """info, warning or error."""
    revision: int | None = None
    """That it is about, if it is about one."""
    replica: str = ""
    reason: str = ""
    """Why a replica is replaced, in a word for programs: exit (it ended), memory (the kernel killed it for want of
    memory), liveness (it hung), gone (somebody removed it), start (it did not become ready), image, engine (these did
    not let it start). Empty for other events."""
    detail: str = ""
    """More lines, such as the last ones of a log."""


class LogLine(Noun, frozen=True, kw_only=True):
    """A line that a replica wrote."""

    replica: str
    line: str
    revision: int | None = None


class AccessLine(Noun, frozen=True, kw_only=True):
    """A request as the gateway noted it. Its fields are those of docs/reference/gateway.md; None: Envoy had none."""

    time: str
    """When it began, UTC, ISO 8601."""
    status: int
    request_id: str | None = None
    deployment: str | None = None
    revision: int | None = None
    replica: str | None = None
    method: str | None = None
    host: str | None = None
    path: str | None = None
    protocol: str | None = None
    grpc_status: int | None = None
    flags: str | None = None
    detail: str | None = None
    duration_us: int | None = None
    replica_us: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    attempts: int | None = None
    caller: str | None = None
    agent: str | None = None


class DriftItem(Noun, frozen=True, kw_only=True):
    """Something that runs otherwise than it was asked for."""

    deployment: str
    what: str
    """container, gateway, image, limits, replicas or the like."""
    asked: str
    found: str
    replica: str = ""
    mend: str = ""
    """What the yard will do about it, or what to do."""


class ReplicaLoad(Noun, frozen=True, kw_only=True):
    """What one replica does and uses now; None where nobody measured."""

    id: str
    revision: int
    phase: str
    requests_per_second: float | None = None
    in_flight: int = 0
    cpus: float | None = None
    memory: int | None = None
    memory_limit: int | None = None


class Load(Noun, frozen=True, kw_only=True):
    """What one deployment does and uses now; None where nobody measured."""

    deployment: str
    requests_per_second: float | None = None
    errors_per_second: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    in_flight: int = 0
    cpus: float | None = None
    memory: int | None = None
    replicas: tuple[ReplicaLoad, ...] = ()


class LoadStep(Noun, frozen=True, kw_only=True):
    """What a deployment did and used in one step, on average; None where nobody measured. `at`: when it began."""

    at: float
    requests_per_second: float | None = None
    errors_per_second: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    in_flight: float | None = None
    ready: float | None = None
    """Replicas that were ready."""
    cpus: float | None = None
    memory: int | None = None


class LoadHistory(Noun, frozen=True, kw_only=True):
    """A deployment's steps of `step_s` seconds, the oldest first; the last is the one that runs."""

    deployment: str
    step_s: float
    steps: tuple[LoadStep, ...] = ()


class Top(Noun, frozen=True, kw_only=True):
    """The load of everything; `window_s`: the seconds that rates and percentiles are of."""

    at: float
    window_s: float
    deployments: tuple[Load, ...] = ()


class AuditEntry(Noun, frozen=True, kw_only=True):
    """One line of the audit log."""

    number: int
    at: float
    who: str
    action: str
    target: str = ""
    outcome: str = "done"
    """done, failed or refused."""
    why: str = ""
    rule: str = ""
    before: Any = None
    after: Any = None
    hash: str = ""


class Token(Noun, frozen=True, kw_only=True):
    """A token, without its secret."""

    id: str
    name: str
    scope: Scope
    created: float
    expires: float | None = None
    last_used: float | None = None
    revoked: float | None = None
    created_by: str = ""


class NewToken(Noun, frozen=True, kw_only=True):
    """A token just made: the only time that its secret is told."""

    token: Token
    secret: str

    def __repr__(self) -> str:
        return f"NewToken(token={self.token!r}, secret='***')"


class ImageWanted(Noun, frozen=True, kw_only=True):
    """What of an image the yard lacks: blobs, by digest. `known`: it has the image with all that is attached to it."""

    blobs: tuple[str, ...] = ()
    known: bool = False


class ImageTaken(Noun, frozen=True, kw_only=True):
    """An image that has arrived whole, or (`blob`) one of its blobs."""

    digest: str
    size: int
    """Bytes."""


class YardInfo(Noun, frozen=True, kw_only=True):
    """The yard that answers."""

    version: str
    host: str
    started: float
    engine: str = ""
    gateway: tuple[str, ...] = ()
    """Addresses that the gateway answers on."""
    placement: dict[str, str] = field(default_factory=dict)
    deployments: int = 0
    platform: str = ""
    """What its replicas run on, such as `linux/amd64`."""
    you: str = ""
    """Who asks, as the audit log would name them."""
    scope: Scope = Scope.VIEWER
