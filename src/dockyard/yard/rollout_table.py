"""The table of rollouts: at most one under way for each deployment, and those that ended with their receipts.

Part of `Store`, which says how transactions and order work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from sqlite3 import Row
from typing import Any

from dockyard.errors import UnknownInYardError, YardConflictError
from dockyard.yard.deployment_table import DeploymentTable
from dockyard.yard.records import Origin, RolloutRecord, rollout_of
from dockyard.yard.state import Advance, RevisionState, RolloutPhase

_ENDED = {RolloutPhase.DONE, RolloutPhase.FAILED}


class RolloutTable(DeploymentTable):
    """Rollouts by number."""

    def begin_rollout(self, deployment: str, target: int, origin: Origin) -> RolloutRecord:
        """Begin to move from the active revision to `target`; YardConflictError while another move is under way."""
        with self.together():
            record = self.living_deployment(deployment)
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

    def rollouts(self, deployment: str, *, limit: int | None = None) -> tuple[RolloutRecord, ...]:
        """The rollouts of a deployment, the newest first: all that are kept, or at most `limit`."""
        rows = self.database.all(
            "SELECT * FROM rollouts WHERE deployment = ? ORDER BY id DESC LIMIT ifnull(?, -1)", (deployment, limit)
        )
        return tuple(map(rollout_of, rows))

    def numbered_rollout(self, deployment: str, number: int) -> RolloutRecord | None:
        """The rollout of a deployment that has this number, if it is kept."""
        row = self.database.one("SELECT * FROM rollouts WHERE deployment = ? AND id = ?", (deployment, number))
        return None if row is None else rollout_of(row)

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
