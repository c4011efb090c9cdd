"""What the planner decides on and what it decides: nouns only.

`observe` makes a `World` from the store, the engines and the gateway; `plan` and `rollout`, which are pure, turn it and
the time into a `Plan`; `act` carries that out. Times are seconds of one clock that never jumps back; the caller chooses
it, so tests run on a virtual one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dockyard.spec.deployment import Probes, Strategy


class Phase(StrEnum):
    """Where a replica is in its life."""

    CREATED = "created"
    """Its socket listens, and requests may wait there; its container is started once there is memory for it."""
    STARTING = "starting"
    """Its container is being started, or runs and is not proven yet."""
    READY = "ready"
    """Proven: it loaded, its goldens hold, it answers."""
    DRAINING = "draining"
    """It takes no new requests; those in flight finish, then it is stopped."""
    FREEZING = "freezing"
    """Without traffic, until the gateway has closed its pooled connections; then it is frozen."""
    FROZEN = "frozen"
    """Its processes are paused; a thaw takes milliseconds."""
    CRASHED = "crashed"
    """It ended, hung or was killed; it is started again after a pause."""
    STOPPED = "stopped"
    """It is gone; only its record is left, to be removed."""


@dataclass(frozen=True)
class Replica:
    """One replica as it is now.

    `since`: when its phase began. `crashes`: ends in a row without having been ready for long. `routed`: whether it is
    an endpoint in the configuration that the gateway accepted last, and gets new requests; `routed_since`: when that
    last changed, as far as anybody knows. `in_flight`: requests in it, as the gateway counts.
    """

    id: str
    revision: int
    phase: Phase
    since: float
    crashes: int = 0
    routed: bool = False
    in_flight: int = 0
    routed_since: float = 0.0


class RevisionState(StrEnum):
    """What became of a revision."""

    PENDING = "pending"
    ACTIVE = "active"
    KEPT = "kept"
    """It was active before; its replicas are still there, for an instant rollback."""
    RETIRED = "retired"
    FAILED = "failed"


@dataclass(frozen=True)
class Revision:
    """One immutable version of a deployment, as far as planning needs it. `memory`: bytes that one replica may use.

    `drain_s`: how long the last requests of a replica may take before it is stopped all the same.
    """

    number: int
    state: RevisionState
    memory: int
    strategy: Strategy
    probes: Probes
    state_since: float = 0.0
    drain_s: float = 300.0


class RolloutPhase(StrEnum):
    """Where the move from one revision to the next is."""

    STARTING = "starting"
    PREVIEW = "preview"
    """Blue-green: the new one is ready, and waits to be promoted."""
    SWITCHING = "switching"
    """The new one has all traffic by the plan; the gateway has not accepted that yet."""
    ABORTING = "aborting"
    """All traffic is on the source again; the target's replicas go."""
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Rollout:
    """The move under way: `source` is None for a first one. `progress`: when it last got further. `holding`: the old is
    stopped before the new is started, for memory does not fit both. `why`: what was told when its phase began."""

    id: int
    source: int | None
    target: int
    phase: RolloutPhase
    since: float
    progress: float
    promoted: bool = False
    aborted: str = ""
    """Why a user aborted it; empty while nobody has."""
    holding: bool = False
    why: str = ""


@dataclass(frozen=True)
class DeploymentState:
    """One deployment: what is asked of it, and what is there. `active`: the revision that has the traffic."""

    name: str
    wanted: int
    active: int | None
    revisions: Mapping[int, Revision] = field(hash=False)
    replicas: tuple[Replica, ...] = ()
    rollout: Rollout | None = None
    deleted: bool = False


@dataclass(frozen=True)
class World:
    """Everything there is. `memory`: bytes that replicas may use on this host altogether."""

    deployments: tuple[DeploymentState, ...]
    memory: int


@dataclass(frozen=True)
class Traffic:
    """Where one deployment's requests go: shares of each revision in percent, and the replicas that are its endpoints.

    `draining`: replicas that get no new requests any more and stay in the gateway's configuration all the same, so that
    their requests in flight are counted.
    """

    weights: Mapping[int, int] = field(hash=False)
    endpoints: Mapping[int, tuple[str, ...]] = field(hash=False)
    preview: int | None = None
    """The revision that answers under the preview host and header."""
    draining: Mapping[int, tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Start:
    """Make one more replica of a revision and start it."""

    deployment: str
    revision: int


@dataclass(frozen=True)
class Create:
    """Make one more replica of a revision with its socket, so that requests can wait there; start no container yet."""

    deployment: str
    revision: int


@dataclass(frozen=True)
class Restart:
    """Start the container of a crashed or created replica, on the socket that it has."""

    deployment: str
    replica: str


@dataclass(frozen=True)
class Move:
    """Note that a replica is now in this phase (draining, freezing, ready again): no container is touched."""

    deployment: str
    replica: str
    phase: Phase
    why: str = ""


@dataclass(frozen=True)
class Stop:
    """SIGTERM, then SIGKILL after `grace` seconds; then nothing of the replica is left."""

    deployment: str
    replica: str
    grace: float
    why: str = ""


@dataclass(frozen=True)
class Freeze:
    """Pause the replica's processes."""

    deployment: str
    replica: str


@dataclass(frozen=True)
class Thaw:
    """Let the replica's processes go on."""

    deployment: str
    replica: str


@dataclass(frozen=True)
class Advance:
    """Note where the rollout is now; `why` is told to people. DONE makes its target active, FAILED makes it failed.

    `progressed`: it got further just now. `holding`: from now on it holds; False leaves that as it was.
    """

    deployment: str
    phase: RolloutPhase
    why: str = ""
    progressed: bool = False
    holding: bool = False


@dataclass(frozen=True)
class Mark:
    """Note what became of a revision."""

    deployment: str
    revision: int
    state: RevisionState
    why: str = ""


@dataclass(frozen=True)
class Forget:
    """A deleted deployment has no replicas any more: remove its record; its history stays."""

    deployment: str


@dataclass(frozen=True)
class Note:
    """What people should know who ask why nothing happens: what is waited for, what is refused, and why."""

    deployment: str
    text: str


Step = Start | Create | Restart | Move | Stop | Freeze | Thaw | Advance | Mark | Forget


@dataclass(frozen=True)
class Plan:
    """What to do now: the traffic of every deployment, and steps. `wake`: when time alone changes the plan, if ever.

    At most one step is about any one replica. A step is planned again until the world shows its effect.
    """

    traffic: Mapping[str, Traffic] = field(hash=False)
    steps: tuple[Step, ...] = ()
    wake: float | None = None
    notes: tuple[Note, ...] = ()
