"""What the yard's store holds, as frozen values: what `Store` gives out, and how planning sees it.

A record is what is known for certain because it was written down. What is seen from outside (whether a replica is
routed, its requests in flight) `observe` adds when it turns records into the nouns of `state.py`. Times are seconds
since 1970, UTC.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import Row
from typing import Any

import msgspec

from dockyard.oci.digest import Digest
from dockyard.spec.deployment import Deployment
from dockyard.yard.state import Phase, Replica, Revision, RevisionState, Rollout, RolloutPhase


@dataclass(frozen=True)
class Origin:
    """Who wanted a change, and why. `who` is a token's name, a user of this host, or the yard itself."""

    who: str
    why: str = ""


@dataclass(frozen=True)
class DeploymentRecord:
    """A deployment: how many replicas are wanted, and which revision has the traffic."""

    name: str
    wanted: int
    active: int | None
    created: float
    deleted: float | None = None
    """When somebody asked for it to go; its replicas are on their way out."""


@dataclass(frozen=True)
class NewRevision:
    """What makes a revision. `memory`: bytes that one replica may use, out of the settings or the image's labels."""

    settings: Deployment
    image_digest: Digest
    image_name: str
    memory: int


@dataclass(frozen=True)
class RevisionRecord:
    """One immutable version of a deployment; only what became of it (`state`) changes."""

    deployment: str
    number: int
    settings: Deployment = field(hash=False)
    image_digest: Digest
    image_name: str
    memory: int
    origin: Origin
    created: float
    state: RevisionState
    state_since: float
    state_why: str = ""

    def planning(self) -> Revision:
        """As the planner sees it."""
        return Revision(
            number=self.number,
            state=self.state,
            memory=self.memory,
            strategy=self.settings.strategy,
            probes=self.settings.probes,
            state_since=self.state_since,
            drain_s=self.settings.routing.timeout_s,
        )


@dataclass(frozen=True)
class ReplicaRecord:
    """A replica. `folder`: of its sockets. `container`: the engine's id of it, empty until it was started."""

    id: str
    deployment: str
    revision: int
    engine: str
    folder: Path
    container: str
    phase: Phase
    since: float
    created: float
    crashes: int = 0

    def planning(self, *, routed: bool, in_flight: int, routed_since: float) -> Replica:
        """As the planner sees it, with what the gateway says of it."""
        return Replica(self.id, self.revision, self.phase, self.since, self.crashes, routed, in_flight, routed_since)


@dataclass(frozen=True)
class RolloutRecord:
    """A move from one revision to another. `receipt`: what it cost, once it ended."""

    id: int
    deployment: str
    source: int | None
    target: int
    origin: Origin
    phase: RolloutPhase
    since: float
    progress: float
    started: float
    promoted: bool = False
    aborted: str = ""
    holding: bool = False
    phase_why: str = ""
    ended: float | None = None
    receipt: Mapping[str, Any] | None = field(default=None, hash=False)

    def planning(self) -> Rollout:
        """As the planner sees it."""
        return Rollout(
            id=self.id,
            source=self.source,
            target=self.target,
            phase=self.phase,
            since=self.since,
            progress=self.progress,
            promoted=self.promoted,
            aborted=self.aborted,
            holding=self.holding,
            why=self.phase_why,
        )


@dataclass(frozen=True)
class DeploymentSnapshot:
    """One deployment with all that still matters for planning.

    `revisions`, by number: those that are pending, active or kept, those with replicas, and both ends of the rollout.
    """

    deployment: DeploymentRecord
    revisions: Mapping[int, RevisionRecord] = field(hash=False)
    replicas: tuple[ReplicaRecord, ...]
    rollout: RolloutRecord | None


@dataclass(frozen=True)
class Event:
    """Something that happened. `kind`: one word with dots, such as `replica.crashed`; `detail`: further lines.

    `revision`: that it is about, if it is about one. `reason`: the word of `watch.Ended` for why a replica is gone.
    """

    sequence: int
    time: float
    kind: str
    text: str
    deployment: str = ""
    replica: str = ""
    detail: str = ""
    revision: int | None = None
    reason: str = ""


def decode_settings(text: str) -> Deployment:
    """Settings as they were stored."""
    return msgspec.json.decode(text, type=Deployment)


def encode_settings(settings: Deployment) -> str:
    """Settings as they are stored, and as a container's label says them; defaults are written out."""
    return msgspec.json.encode(settings, order="sorted").decode()


def deployment_of(row: Row) -> DeploymentRecord:
    """A row of `deployments`."""
    return DeploymentRecord(row["name"], row["wanted"], row["active"], row["created"], row["deleted"])


# A row that did not change gives the very same record: a loop reads ten thousand of them every second or two.
@functools.lru_cache(maxsize=8192)
def revision_of(row: Row) -> RevisionRecord:
    """A row of `revisions`."""
    return RevisionRecord(
        deployment=row["deployment"],
        number=row["number"],
        settings=decode_settings(row["settings"]),
        image_digest=Digest(row["image_digest"]),
        image_name=row["image_name"],
        memory=row["memory"],
        origin=Origin(row["who"], row["why"]),
        created=row["created"],
        state=RevisionState(row["state"]),
        state_since=row["state_since"],
        state_why=row["state_why"],
    )


@functools.lru_cache(maxsize=32768)
def replica_of(row: Row) -> ReplicaRecord:
    """A row of `replicas`."""
    return ReplicaRecord(
        id=row["id"],
        deployment=row["deployment"],
        revision=row["revision"],
        engine=row["engine"],
        folder=Path(row["folder"]),
        container=row["container"],
        phase=Phase(row["phase"]),
        since=row["since"],
        created=row["created"],
        crashes=row["crashes"],
    )


def rollout_of(row: Row) -> RolloutRecord:
    """A row of `rollouts`."""
    return RolloutRecord(
        id=row["id"],
        deployment=row["deployment"],
        source=row["source"],
        target=row["target"],
        origin=Origin(row["who"], row["why"]),
        phase=RolloutPhase(row["phase"]),
        since=row["since"],
        progress=row["progress"],
        started=row["started"],
        promoted=bool(row["promoted"]),
        aborted=row["aborted"],
        holding=bool(row["holding"]),
        phase_why=row["phase_why"],
        ended=row["ended"],
        receipt=None if row["receipt"] is None else json.loads(row["receipt"]),
    )
