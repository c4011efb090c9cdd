"""The yard's memory: deployments, revisions, replicas and rollouts, in one SQLite file.

Each has its table and its code beside this file; here is what concerns them all.

`service` writes what people ask, `act` and `reconcile` what became of it; `observe` reads it all at once (`snapshot`).
Every method is one transaction, on the disk when it returns; several become one within `together`. Calls are
synchronous and take well under a millisecond apart from the disk's fsync, so the event loop makes them directly, from
its own thread. Order is by sequence numbers, never by time.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dockyard.errors import StoreError, YardConflictError
from dockyard.yard.clock import Clock, steady_clock
from dockyard.yard.database import PATIENCE, Database, reading
from dockyard.yard.records import (
    DeploymentSnapshot,
    ReplicaRecord,
    RevisionRecord,
    revision_of,
    rollout_of,
)
from dockyard.yard.replica_table import ReplicaTable
from dockyard.yard.rollout_table import RolloutTable
from dockyard.yard.schema import NEWEST_TIME, RELEVANT_REVISIONS
from dockyard.yard.state import RevisionState, RolloutPhase

FILE_NAME = "yard.db"
_DEFAULT_ENGINE = "default engine"


@dataclass(frozen=True)
class KnownEngines:
    """The engines that a yard's replicas are on, and the one that it used where a deployment named none."""

    used: frozenset[str] = frozenset()
    default: str = ""


def known_engines(path: Path) -> KnownEngines:
    """What the store at `path` says, read beside its yard or without; nothing when there is none that can be read."""
    if not path.exists():
        return KnownEngines()
    with suppress(StoreError), reading(path) as connection:
        used = connection.execute("SELECT DISTINCT engine FROM replicas").fetchall()
        default = connection.execute("SELECT value FROM notes WHERE name = ?", (_DEFAULT_ENGINE,)).fetchone()
        return KnownEngines(frozenset(str(row[0]) for row in used), str(default[0]) if default else "")
    return KnownEngines()


class Store(RolloutTable, ReplicaTable):
    """All that the yard remembers. One process has it open."""

    @classmethod
    def open(cls, path: Path, *, clock: Clock | None = None, patience: float = PATIENCE) -> Store:
        """Open the store at `path`, or make an empty one; waits at most `patience` seconds for who holds it.

        StoreLockedError, StoreDamagedError (then restore), StoreTooNewError, or StoreError when the disk refuses.
        """
        database = Database.open(path, patience=patience)
        row = database.one(NEWEST_TIME)
        store = cls(database, clock or steady_clock(row[0] if row else 0.0))
        if database.fresh:
            store.set_note("yard", os.urandom(8).hex())
        return store

    @property
    def fresh(self) -> bool:
        """Whether nothing was there before: if containers of a yard run all the same, its store was lost."""
        return self.database.fresh

    @property
    def yard(self) -> str:
        """This yard's id, made with the store and kept in its backups: 16 hexadecimal digits."""
        return self.note("yard")

    def note_default_engine(self, name: str) -> None:
        """Keep which engine is used where a deployment names none: the next yard uses it too, even if it is slow."""
        self.set_note(_DEFAULT_ENGINE, name)

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    def snapshot(self) -> tuple[DeploymentSnapshot, ...]:
        """Everything that matters for planning, as of one moment, by name."""
        revisions: dict[str, dict[int, RevisionRecord]] = defaultdict(dict)
        replicas: dict[str, list[ReplicaRecord]] = defaultdict(list)
        with self.together():
            for revision in map(revision_of, self.database.all(RELEVANT_REVISIONS)):
                revisions[revision.deployment][revision.number] = revision
            for replica in self.replicas():
                replicas[replica.deployment].append(replica)
            rows = self.database.all("SELECT * FROM rollouts WHERE ended IS NULL")
            rollouts = {row["deployment"]: rollout_of(row) for row in rows}
            return tuple(
                DeploymentSnapshot(one, revisions[one.name], tuple(replicas[one.name]), rollouts.get(one.name))
                for one in self.deployments()
            )

    def forget(self, name: str) -> None:
        """A deleted deployment has no replicas any more: list it no longer. Its history stays, its name is free."""
        with self.together():
            if self.deployment(name).deleted is None:
                raise YardConflictError(f"{name} was not deleted", remedy="Delete it first.")
            if self.replicas(name):
                raise YardConflictError(f"{name} still has replicas", remedy="Stop and remove them first.")
            self.database.execute(
                "UPDATE rollouts SET ended = ?, phase = ?, phase_why = 'the deployment was deleted' "
                "WHERE deployment = ? AND ended IS NULL",
                (self.now(), RolloutPhase.FAILED, name),
            )
            self.database.execute(
                "UPDATE revisions SET state = ?, state_since = ? WHERE deployment = ? AND state NOT IN (?, ?)",
                (RevisionState.RETIRED, self.now(), name, RevisionState.FAILED, RevisionState.RETIRED),
            )
            self.database.execute(
                "UPDATE deployments SET forgotten = ?, active = NULL WHERE name = ?", (self.now(), name)
            )
