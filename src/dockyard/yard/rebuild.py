"""A store made anew from what still runs: `dockyard restore --from-engine`, when there is no backup.

Containers say all of their revision; what became of revisions, history, tokens and the audit log are lost. Which
revision has the traffic the gateway's last accepted snapshot knows; where it does not, the newest that serves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dockyard.errors import YardConflictError
from dockyard.yard.labels import ReplicaLabels
from dockyard.yard.records import encode_settings
from dockyard.yard.state import Phase, RevisionState
from dockyard.yard.store import Store

_SERVING = {Phase.READY, Phase.STARTING}


@dataclass(frozen=True)
class FoundReplica:
    """A container that is a replica. `phase`: FROZEN when it is paused, READY or STARTING when it runs."""

    labels: ReplicaLabels
    engine: str
    container: str
    folder: Path
    phase: Phase


def rebuild(store: Store, found: Sequence[FoundReplica], active: Mapping[str, int]) -> tuple[str, ...]:
    """Fill an empty store from containers; `active`: revisions that have traffic, as far as the gateway knows.

    Returns the names of the deployments, in order. YardConflictError when the store is not empty, or when containers of
    several yards are there.
    """
    if store.deployments():
        raise YardConflictError(
            f"{store.database.path} already has deployments", remedy="Move it away first, then restore again."
        )
    yards = {one.labels.yard for one in found}
    if len(yards) > 1:
        raise YardConflictError(
            f"containers of several yards run here: {', '.join(sorted(yards))}",
            remedy="Remove those that are not this yard's, then restore again.",
        )
    by_name: dict[str, list[FoundReplica]] = defaultdict(list)
    for one in sorted(found, key=lambda one: (one.labels.deployment, one.labels.revision, one.labels.replica)):
        by_name[one.labels.deployment].append(one)
    with store.together():
        for yard in yards:
            store.set_note("yard", yard)
        for name, replicas in by_name.items():
            _add(store, name, replicas, active.get(name))
    return tuple(by_name)


def _add(store: Store, name: str, replicas: Sequence[FoundReplica], active: int | None) -> None:
    now = store.now()
    revisions = {one.labels.revision: one.labels for one in replicas}
    serving = [one.labels.revision for one in replicas if one.phase in _SERVING]
    chosen = active if active in revisions else max(serving, default=None)
    newest = max((one.labels for one in replicas), key=lambda labels: (labels.revision == chosen, labels.revision))
    store.database.insert("deployments", name=name, wanted=newest.wanted, created=newest.created, active=chosen)
    for number, labels in sorted(revisions.items()):
        state = _state(number, chosen)
        store.database.insert(
            "revisions",
            deployment=name,
            number=number,
            settings=encode_settings(labels.settings),
            image_digest=labels.image_digest,
            image_name=labels.image_name,
            memory=labels.memory,
            who=labels.origin.who,
            why=labels.origin.why,
            created=labels.created,
            state=state,
            state_since=now,
            state_why="rebuilt from its containers",
        )
    for one in replicas:
        store.add_replica(one.labels.replica, name, one.labels.revision, engine=one.engine, folder=one.folder)
        store.set_container(one.labels.replica, one.container)
        store.set_phase(one.labels.replica, one.phase)


def _state(number: int, active: int | None) -> RevisionState:
    """A newer one than the active had not taken over: its rollout is lost, and begins anew when somebody asks."""
    if number == active:
        return RevisionState.ACTIVE
    return RevisionState.KEPT if active is None or number < active else RevisionState.PENDING
