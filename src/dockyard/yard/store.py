"""The yard's memory: deployments, revisions, replicas and rollouts, in one SQLite file.

`service` writes what people ask, `act` and `reconcile` what became of it; `observe` reads it all at once (`snapshot`).
Every method is one transaction, on the disk when it returns; several become one within `together`. Calls are
synchronous and take well under a millisecond apart from the disk's fsync, so the event loop makes them directly, from
its own thread. Order is by sequence numbers, never by time.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from sqlite3 import Row
from typing import Any

from dockyard.errors import UnknownInYardError, YardConflictError
from dockyard.yard.clock import Clock, steady_clock
from dockyard.yard.database import PATIENCE, Database
from dockyard.yard.events import EventLog
from dockyard.yard.records import (
    DeploymentRecord,
    DeploymentSnapshot,
    NewRevision,
    Origin,
    ReplicaRecord,
    RevisionRecord,
    RolloutRecord,
    deployment_of,
    encode_settings,
    replica_of,
    revision_of,
    rollout_of,
)
from dockyard.yard.schema import NEWEST_TIME, RELEVANT_REVISIONS
from dockyard.yard.state import Advance, Phase, RevisionState, RolloutPhase

FILE_NAME = "yard.db"
_ENDED = {RolloutPhase.DONE, RolloutPhase.FAILED}


class Store:
    """All that the yard remembers. One process has it open."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.now = clock
        """The yard's time, which never jumps back; what the planner should be given."""
        self.events = EventLog(database, clock)

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

    def together(self) -> AbstractContextManager[None]:
        """Make the body's changes one transaction. Nothing may be awaited in it."""
        return self.database.transaction()

    def close(self) -> None:
        """Let go of the file."""
        self.database.close()

    # Deployments

    def deployments(self) -> tuple[DeploymentRecord, ...]:
        """All that are not forgotten, by name."""
        rows = self.database.all("SELECT * FROM deployments WHERE forgotten IS NULL ORDER BY name")
        return tuple(map(deployment_of, rows))

    def deployment(self, name: str) -> DeploymentRecord:
        """One deployment; UnknownInYardError when there is none."""
        row = self.database.one("SELECT * FROM deployments WHERE name = ? AND forgotten IS NULL", (name,))
        if row is None:
            raise UnknownInYardError(f"there is no deployment {name[:80]!r}", remedy="`dockyard status` lists all.")
        return deployment_of(row)

    def scale(self, name: str, wanted: int) -> DeploymentRecord:
        """Ask for another number of replicas."""
        with self.together():
            self._living(name)
            self.database.execute("UPDATE deployments SET wanted = ? WHERE name = ?", (wanted, name))
            return self.deployment(name)

    def delete(self, name: str) -> DeploymentRecord:
        """Ask for a deployment to go. Its replicas are still there; deleting it again changes nothing."""
        with self.together():
            if self.deployment(name).deleted is None:
                self.database.execute("UPDATE deployments SET deleted = ? WHERE name = ?", (self.now(), name))
            return self.deployment(name)

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

    # Revisions

    def add_revision(self, new: NewRevision, origin: Origin) -> RevisionRecord:
        """Add the next revision of a deployment, which is made if there is none; its wanted replicas become these.

        YardConflictError while a deployment of that name is being deleted.
        """
        name, now = new.settings.name, self.now()
        with self.together():
            self._make_deployment(name, new.settings.replicas, now)
            row = self.database.one("SELECT coalesce(max(number), 0) + 1 FROM revisions WHERE deployment = ?", (name,))
            assert row is not None
            self.database.insert(
                "revisions",
                deployment=name,
                number=row[0],
                settings=encode_settings(new.settings),
                image_digest=new.image_digest,
                image_name=new.image_name,
                memory=new.memory,
                who=origin.who,
                why=origin.why,
                created=now,
                state=RevisionState.PENDING,
                state_since=now,
            )
            return self.revision(name, row[0])

    def revision(self, deployment: str, number: int) -> RevisionRecord:
        """One revision, of a forgotten deployment too; UnknownInYardError when there is none."""
        row = self.database.one("SELECT * FROM revisions WHERE deployment = ? AND number = ?", (deployment, number))
        if row is None:
            raise UnknownInYardError(
                f"{deployment[:80]} has no revision {number}", remedy=f"`dockyard history {deployment[:80]}` lists all."
            )
        return revision_of(row)

    def revisions(self, deployment: str, *, limit: int = 100) -> tuple[RevisionRecord, ...]:
        """The newest revisions of a deployment, the newest first."""
        rows = self.database.all(
            "SELECT * FROM revisions WHERE deployment = ? ORDER BY number DESC LIMIT ?", (deployment, limit)
        )
        return tuple(map(revision_of, rows))

    def mark(self, deployment: str, number: int, state: RevisionState, why: str = "") -> RevisionRecord:
        """Note what became of a revision."""
        with self.together():
            self.revision(deployment, number)
            self.database.execute(
                "UPDATE revisions SET state = ?, state_since = ?, state_why = ? WHERE deployment = ? AND number = ?",
                (state, self.now(), why, deployment, number),
            )
            return self.revision(deployment, number)

    # Rollouts

    def begin_rollout(self, deployment: str, target: int, origin: Origin) -> RolloutRecord:
        """Begin to move from the active revision to `target`; YardConflictError while another move is under way."""
        with self.together():
            record = self._living(deployment)
            self.revision(deployment, target)
            if under_way := self.rollout(deployment):
                raise YardConflictError(
                    f"{deployment} is being rolled out to revision {under_way.target} (rollout {under_way.id})",
                    remedy=f"Wait for it, or `dockyard abort {deployment}`, then try again.",
                )
            now = self.now()
            number = self.database.insert(
                "rollouts",
                deployment=deployment,
                source=record.active,
                target=target,
                who=origin.who,
                why=origin.why,
                phase=RolloutPhase.STARTING,
                since=now,
                progress=now,
                started=now,
            )
            return self._rollout(number)

    def rollout(self, deployment: str) -> RolloutRecord | None:
        """The rollout under way, if there is one."""
        row = self.database.one("SELECT * FROM rollouts WHERE deployment = ? AND ended IS NULL", (deployment,))
        return None if row is None else rollout_of(row)

    def rollouts(self, deployment: str, *, limit: int = 100) -> tuple[RolloutRecord, ...]:
        """The newest rollouts of a deployment, the newest first."""
        rows = self.database.all(
            "SELECT * FROM rollouts WHERE deployment = ? ORDER BY id DESC LIMIT ?", (deployment, limit)
        )
        return tuple(map(rollout_of, rows))

    def promote(self, deployment: str) -> RolloutRecord:
        """A user lets the rollout under way go on past its preview."""
        with self.together():
            rollout = self._under_way(deployment)
            self.database.execute("UPDATE rollouts SET promoted = 1 WHERE id = ?", (rollout.id,))
            return self._rollout(rollout.id)

    def abort(self, deployment: str, why: str) -> RolloutRecord:
        """A user wants the rollout under way undone; the first reason stays."""
        with self.together():
            rollout = self._under_way(deployment)
            self.database.execute(
                "UPDATE rollouts SET aborted = ? WHERE id = ? AND aborted = ''", (why or "no reason given", rollout.id)
            )
            return self._rollout(rollout.id)

    def advance(self, step: Advance) -> RolloutRecord:
        """Note where the rollout under way is now. DONE makes its target active and keeps its source; FAILED makes the
        target failed, unless that has the traffic. Once it is holding, it stays so."""
        with self.together():
            rollout, now = self._under_way(step.deployment), self.now()
            changed = rollout.phase is not step.phase
            since = now if changed else rollout.since
            progress = now if changed or step.progressed else rollout.progress
            why = step.why if changed or step.why else rollout.phase_why
            ended = now if step.phase in _ENDED else None
            self.database.execute(
                "UPDATE rollouts SET phase = ?, phase_why = ?, since = ?, progress = ?, holding = ?, ended = ? "
                "WHERE id = ?",
                (step.phase, why, since, progress, step.holding or rollout.holding, ended, rollout.id),
            )
            if step.phase is RolloutPhase.DONE:
                self._take_over(rollout, step.why)
            elif step.phase is RolloutPhase.FAILED and self.deployment(step.deployment).active != rollout.target:
                self.mark(step.deployment, rollout.target, RevisionState.FAILED, step.why)
            return self._rollout(rollout.id)

    def set_receipt(self, rollout: int, receipt: Mapping[str, Any]) -> RolloutRecord:
        """Note what a rollout cost."""
        with self.together():
            self.database.execute("UPDATE rollouts SET receipt = ? WHERE id = ?", (json.dumps(receipt), rollout))
            return self._rollout(rollout)

    # Replicas

    def add_replica(self, replica: str, deployment: str, revision: int, *, engine: str, folder: Path) -> ReplicaRecord:
        """Note a replica before its container is started; YardConflictError when there is one of that id."""
        with self.together():
            self.revision(deployment, revision)
            if self.database.one("SELECT 1 FROM replicas WHERE id = ?", (replica,)):
                raise YardConflictError(f"there is a replica {replica[:80]!r} already", remedy="Use a new id.")
            now = self.now()
            self.database.insert(
                "replicas",
                id=replica,
                deployment=deployment,
                revision=revision,
                engine=engine,
                folder=str(folder),
                container="",
                phase=Phase.STARTING,
                since=now,
                created=now,
                crashes=0,
            )
            return self.replica(replica)

    def replica(self, replica: str) -> ReplicaRecord:
        """One replica; UnknownInYardError when there is none."""
        row = self.database.one("SELECT * FROM replicas WHERE id = ?", (replica,))
        if row is None:
            raise UnknownInYardError(f"there is no replica {replica[:80]!r}", remedy="`dockyard status` lists all.")
        return replica_of(row)

    def replicas(self, deployment: str | None = None) -> tuple[ReplicaRecord, ...]:
        """All replicas, or those of one deployment, the oldest first."""
        if deployment is None:
            rows = self.database.all("SELECT * FROM replicas ORDER BY sequence")
        else:
            rows = self.database.all("SELECT * FROM replicas WHERE deployment = ? ORDER BY sequence", (deployment,))
        return tuple(map(replica_of, rows))

    def set_phase(self, replica: str, phase: Phase, *, crashes: int | None = None) -> ReplicaRecord:
        """Note that a replica is in a phase; `since` moves only when it was in another. `crashes`: in a row, so far."""
        with self.together():
            record = self.replica(replica)
            since = record.since if record.phase is phase else self.now()
            self.database.execute(
                "UPDATE replicas SET phase = ?, since = ?, crashes = ? WHERE id = ?",
                (phase, since, record.crashes if crashes is None else crashes, replica),
            )
            return self.replica(replica)

    def set_container(self, replica: str, container: str) -> ReplicaRecord:
        """Note which container a replica is."""
        with self.together():
            self.database.execute("UPDATE replicas SET container = ? WHERE id = ?", (container, replica))
            return self.replica(replica)

    def remove_replica(self, replica: str) -> None:
        """Forget a replica of which nothing is left."""
        self.database.execute("DELETE FROM replicas WHERE id = ?", (replica,))

    # Notes

    def note(self, name: str, default: str = "") -> str:
        """A small fact under a name, such as the version of the gateway's last accepted snapshot."""
        row = self.database.one("SELECT value FROM notes WHERE name = ?", (name,))
        return default if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Remember a small fact."""
        self.database.execute(
            "INSERT INTO notes (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )

    def _living(self, name: str) -> DeploymentRecord:
        record = self.deployment(name)
        if record.deleted is not None:
            raise YardConflictError(
                f"{name} is being deleted", remedy="Wait until its replicas are gone, then deploy it."
            )
        return record

    def _make_deployment(self, name: str, wanted: int, now: float) -> None:
        row = self.database.one("SELECT deleted, forgotten FROM deployments WHERE name = ?", (name,))
        if row is None:
            self.database.insert("deployments", name=name, wanted=wanted, created=now)
        elif row["forgotten"] is not None:
            self.database.execute(
                "UPDATE deployments SET wanted = ?, created = ?, deleted = NULL, forgotten = NULL WHERE name = ?",
                (wanted, now, name),
            )
        else:
            self.scale(name, wanted)

    def _rollout(self, number: int) -> RolloutRecord:
        row: Row | None = self.database.one("SELECT * FROM rollouts WHERE id = ?", (number,))
        if row is None:
            raise UnknownInYardError(f"there is no rollout {number}", remedy="`dockyard history` lists all.")
        return rollout_of(row)

    def _under_way(self, deployment: str) -> RolloutRecord:
        rollout = self.rollout(deployment)
        if rollout is None:
            raise YardConflictError(
                f"no rollout of {deployment[:80]} is under way", remedy="`dockyard status` shows where it is."
            )
        return rollout

    def _take_over(self, rollout: RolloutRecord, why: str) -> None:
        """The target has the traffic now."""
        name = rollout.deployment
        self.database.execute("UPDATE deployments SET active = ? WHERE name = ?", (rollout.target, name))
        self.mark(name, rollout.target, RevisionState.ACTIVE, why)
        if rollout.source is None or rollout.source == rollout.target:
            return
        if self.revision(name, rollout.source).state is RevisionState.ACTIVE:
            self.mark(name, rollout.source, RevisionState.KEPT, f"revision {rollout.target} took over")
