"""The table of replicas: each from before its container is started until nothing is left of it.

Part of `Store`, which says how transactions and order work.
"""

from __future__ import annotations

from pathlib import Path

from dockyard.errors import UnknownInYardError, YardConflictError
from dockyard.yard.deployment_table import DeploymentTable
from dockyard.yard.records import ReplicaRecord, replica_of
from dockyard.yard.state import Phase


class ReplicaTable(DeploymentTable):
    """Replicas by id."""

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

    def pass_on(self, replica: str, before: Phase, after: Phase) -> bool:
        """Note that a replica went on from one phase to the next; False, and nothing changes, if it is in another.

        For what takes a while: meanwhile somebody may have sent the replica away, or its container may have ended.
        """
        with self.together():
            if self.replica(replica).phase is not before:
                return False
            self.set_phase(replica, after)
            return True

    def set_container(self, replica: str, container: str) -> ReplicaRecord:
        """Note which container a replica is."""
        with self.together():
            self.database.execute("UPDATE replicas SET container = ? WHERE id = ?", (container, replica))
            return self.replica(replica)

    def remove_replica(self, replica: str) -> None:
        """Forget a replica of which nothing is left."""
        self.database.execute("DELETE FROM replicas WHERE id = ?", (replica,))
