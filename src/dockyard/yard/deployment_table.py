"""The tables of deployments and their revisions. Part of `Store`, which says how transactions and order work."""

from __future__ import annotations

from dockyard.errors import UnknownInYardError, YardConflictError
from dockyard.yard.records import (
    DeploymentRecord,
    NewRevision,
    Origin,
    RevisionRecord,
    deployment_of,
    encode_settings,
    revision_of,
)
from dockyard.yard.state import RevisionState
from dockyard.yard.tables import Tables


class DeploymentTable(Tables):
    """Deployments by name, and each one's revisions by number."""

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
            self.living_deployment(name)
            self.database.execute("UPDATE deployments SET wanted = ? WHERE name = ?", (wanted, name))
            return self.deployment(name)

    def delete(self, name: str) -> DeploymentRecord:
        """Ask for a deployment to go. Its replicas are still there; deleting it again changes nothing."""
        with self.together():
            if self.deployment(name).deleted is None:
                self.database.execute("UPDATE deployments SET deleted = ? WHERE name = ?", (self.now(), name))
            return self.deployment(name)

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
            newest = self.revisions(deployment, limit=1)
            if newest and 1 <= number < newest[0].number:
                raise UnknownInYardError(
                    f"revision {number} of {deployment[:80]} is not kept any more",
                    remedy=f"`dockyard history {deployment[:80]}` lists those that are (`dockyard up --keep-revisions` "
                    "says how many). To have its image again, deploy it.",
                )
            raise UnknownInYardError(
                f"{deployment[:80]} has no revision {number}", remedy=f"`dockyard history {deployment[:80]}` lists all."
            )
        return revision_of(row)

    def revisions(self, deployment: str, *, limit: int | None = None) -> tuple[RevisionRecord, ...]:
        """The revisions of a deployment, the newest first: all that are kept, or at most `limit`."""
        rows = self.database.all(
            "SELECT * FROM revisions WHERE deployment = ? ORDER BY number DESC LIMIT ifnull(?, -1)", (deployment, limit)
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

    def living_deployment(self, name: str) -> DeploymentRecord:
        """One deployment; YardConflictError while it is being deleted, UnknownInYardError when there is none."""
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
