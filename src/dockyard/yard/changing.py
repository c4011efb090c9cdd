"""What changes deployments: deploy, roll back, scale, restart, promote, abort, delete.

Each is one transaction that notes what is wanted, with its entry in the audit log; the reconciler then makes it so.
`service` offers them to the API.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from dockyard.errors import ImageNotFoundError, UnknownInYardError, YardConflictError
from dockyard.oci.image import Image
from dockyard.spec.deployment import Deployment, Keep, StrategyKind
from dockyard.spec.status import Difference, Proposal
from dockyard.supply.policy import Excepted
from dockyard.yard.admission import Admitted
from dockyard.yard.audit import Entry
from dockyard.yard.naming import image_name
from dockyard.yard.operations import Cause
from dockyard.yard.parts import Parts
from dockyard.yard.records import DeploymentRecord, NewRevision, Origin, RevisionRecord
from dockyard.yard.state import Phase, RevisionState

_ALWAYS_TOLD = {"image", "replicas"}
_THERE = {Phase.READY, Phase.FREEZING, Phase.FROZEN}
_BACK_TO = {RevisionState.KEPT, RevisionState.RETIRED}


class Changing:
    """The changing operations."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store
        self._turn = asyncio.Lock()
        """Of what asks an engine between what it reads and what it writes."""

    async def deploy(
        self, deployment: Deployment, cause: Cause, *, dry_run: bool = False, only_new: bool = False
    ) -> Proposal:
        """Make or change a deployment; with `dry_run`, check and tell as much, and change nothing."""
        with self._noting_refusals(cause, "deploy", deployment.name, _masked(deployment)):
            async with self._turn:
                return await self._deploy(deployment, cause, dry_run=dry_run, only_new=only_new)

    async def _deploy(self, deployment: Deployment, cause: Cause, *, dry_run: bool, only_new: bool) -> Proposal:
        name = deployment.name
        admitted = await self._parts.admission.admit(deployment)
        before = self._found(name)
        if before is not None and only_new:
            raise YardConflictError(
                f"there is a deployment {name!r} already",
                remedy=f"Choose another name, or leave out what asks for a new one to change {name}.",
            )
        current = self._current(before)
        differences = _differences(before, current, admitted.settings)
        if not differences:
            return Proposal(deployment=name, kind="nothing", revision=current.number if current else None)
        if before is not None and [each.key for each in differences] == ["replicas"]:
            return self._scaled(before, admitted, cause, dry_run=dry_run)
        self._check_quiet(name)
        proposal = Proposal(
            deployment=name,
            kind="create" if before is None else "update",
            revision=self._next_number(name),
            previous=before.active if before else None,
            differences=differences,
            steps=_steps(admitted.settings, before, self._next_number(name)),
            notes=admitted.notes,
            dry_run=dry_run,
        )
        if dry_run:
            return proposal
        return self._rolled_out(admitted, before, cause, proposal)

    async def rollback(self, name: str, revision: int | None, cause: Cause, *, dry_run: bool = False) -> Proposal:
        """Give the traffic back to an earlier revision (None: the one before)."""
        with self._noting_refusals(cause, "rollback", name, {"revision": revision}):
            return self._rolled_back(name, revision, cause, dry_run=dry_run)

    def _rolled_back(self, name: str, revision: int | None, cause: Cause, *, dry_run: bool) -> Proposal:
        record = self._store.living_deployment(name)
        target = self._back_to(record, revision)
        self._check_quiet(name)
        excepted = self._parts.admission.allow(self._image(target), target.settings)
        there = any(each.revision == target.number and each.phase in _THERE for each in self._store.replicas(name))
        proposal = Proposal(
            deployment=name,
            kind="rollback",
            revision=target.number,
            previous=record.active,
            steps=(
                f"give all requests to revision {target.number}, whose replicas are still there"
                if there
                else f"start revision {target.number} again, then give it all requests",
            ),
            dry_run=dry_run,
        )
        if dry_run:
            return proposal
        with self._store.together():
            rollout = self._store.begin_rollout(name, target.number, _origin(cause))
            self._note(cause, "rollback", name, before={"revision": record.active}, after={"revision": target.number})
            self._note_exceptions(cause, name, excepted)
        return self._begun(proposal, rollout.id)

    async def scale(self, name: str, replicas: int, cause: Cause) -> Proposal:
        """Ask for another number of replicas."""
        with self._noting_refusals(cause, "scale", name, {"replicas": replicas}):
            async with self._turn:
                record = self._store.living_deployment(name)
                asked = msgspec.structs.replace(self._settings(record), replicas=replicas)
                return self._scaled(record, await self._parts.admission.admit(asked), cause, dry_run=False)

    async def restart(self, name: str, cause: Cause) -> Proposal:
        """Replace all replicas of the active revision, without a gap: by a revision with the same settings."""
        with self._noting_refusals(cause, "restart", name):
            async with self._turn:
                return await self._restarted(name, cause)

    async def _restarted(self, name: str, cause: Cause) -> Proposal:
        record = self._store.living_deployment(name)
        self._check_quiet(name)
        asked = msgspec.structs.replace(self._settings(record), replicas=record.wanted)
        admitted = await self._parts.admission.admit(asked)
        proposal = Proposal(
            deployment=name,
            kind="restart",
            revision=self._next_number(name),
            previous=record.active,
            steps=_steps(admitted.settings, record, self._next_number(name)),
            notes=admitted.notes,
        )
        return self._rolled_out(admitted, record, cause, proposal)

    async def promote(self, name: str, cause: Cause) -> Proposal:
        """Let the revision in preview have the traffic."""
        with self._noting_refusals(cause, "promote", name), self._store.together():
            rollout = self._store.promote(name)
            if not self._store.revision(name, rollout.target).settings.strategy.preview:
                raise YardConflictError(
                    f"revision {rollout.target} of {name} is rolled out without a preview",
                    remedy="It takes the traffic by itself, as soon as it is ready.",
                )
            self._note(cause, "promote", name, after={"revision": rollout.target})
        return self._begun(Proposal(deployment=name, kind="promote", revision=rollout.target), rollout.id)

    async def abort(self, name: str, cause: Cause) -> Proposal:
        """Give up the rollout under way; the traffic stays with, or goes back to, its source."""
        with self._noting_refusals(cause, "abort", name), self._store.together():
            rollout = self._store.abort(name, cause.why or f"aborted by {cause.actor.name}")
            self._note(cause, "abort", name, before={"revision": rollout.target}, after={"revision": rollout.source})
        return self._begun(Proposal(deployment=name, kind="abort", revision=rollout.source), rollout.id)

    async def delete(self, name: str, cause: Cause) -> Proposal:
        """Stop and remove it; its history stays."""
        with self._noting_refusals(cause, "delete", name), self._store.together():
            record = self._store.deployment(name)
            self._store.delete(name)
            self._note(cause, "delete", name, before={"revision": record.active, "replicas": record.wanted})
        count = len(self._store.replicas(name))
        steps = (f"stop {count} replicas, once their requests are answered",)
        self._parts.reconciler.wake()
        return Proposal(deployment=name, kind="delete", previous=record.active, steps=steps)

    def _noting_refusals(self, cause: Cause, action: str, name: str, asked: Any = None) -> AbstractContextManager[None]:
        """Note in the audit log if the body is refused."""
        return self._parts.audit.noting_refusals(Entry(cause.actor.name, action, name, why=cause.why, after=asked))

    def _rolled_out(
        self, admitted: Admitted, before: DeploymentRecord | None, cause: Cause, proposal: Proposal
    ) -> Proposal:
        """Add the revision and begin its rollout, both or none; the store keeps its image from being swept."""
        name, current = proposal.deployment, self._current(before)
        kept = image_name(name, self._next_number(name))
        self._parts.host.images.add(admitted.image, kept)
        was = _masked(current.settings) if current else None
        new = NewRevision(admitted.settings, admitted.digest, admitted.image_name, admitted.memory)
        try:
            with self._store.together():
                revision = self._store.add_revision(new, _origin(cause))
                rollout = self._store.begin_rollout(name, revision.number, _origin(cause))
                self._note(cause, proposal.kind, name, before=was, after=_masked(admitted.settings))
                self._note_exceptions(cause, name, admitted.excepted)
        except BaseException:
            self._parts.host.images.remove(kept)
            raise
        return self._begun(proposal, rollout.id)

    def _scaled(self, record: DeploymentRecord, admitted: Admitted, cause: Cause, *, dry_run: bool) -> Proposal:
        replicas = admitted.settings.replicas
        proposal = Proposal(
            deployment=record.name,
            kind="scale" if replicas != record.wanted else "nothing",
            revision=record.active,
            differences=(Difference(key="replicas", before=record.wanted, after=replicas),),
            steps=(f"{'start' if replicas > record.wanted else 'stop'} {abs(replicas - record.wanted)} replicas",),
            notes=admitted.notes,
            dry_run=dry_run,
        )
        if dry_run or replicas == record.wanted:
            return proposal
        with self._store.together():
            self._store.scale(record.name, replicas)
            before, after = {"replicas": record.wanted}, {"replicas": replicas}
            self._note(cause, "scale", record.name, before=before, after=after)
            self._note_exceptions(cause, record.name, admitted.excepted)
        self._parts.reconciler.wake()
        return proposal

    def _begun(self, proposal: Proposal, rollout: int) -> Proposal:
        self._parts.reconciler.wake()
        return msgspec.structs.replace(proposal, rollout=rollout)

    def _note(self, cause: Cause, action: str, name: str, *, before: Any = None, after: Any = None) -> None:
        self._parts.audit.append(Entry(cause.actor.name, action, name, why=cause.why, before=before, after=after))

    def _note_exceptions(self, cause: Cause, name: str, excepted: Iterable[Excepted]) -> None:
        for one in excepted:
            rule, why = one.refused.rule, one.exception.reason
            self._parts.audit.append(Entry(cause.actor.name, "exception", name, why=why, rule=rule))

    def _found(self, name: str) -> DeploymentRecord | None:
        """The deployment, if there is one; YardConflictError while it is being deleted."""
        try:
            return self._store.living_deployment(name)
        except UnknownInYardError:
            return None

    def _current(self, record: DeploymentRecord | None) -> RevisionRecord | None:
        """The revision that is being made active, or is."""
        if record is None:
            return None
        rollout = self._store.rollout(record.name)
        number = rollout.target if rollout is not None and not rollout.aborted else record.active
        if number is not None:
            return self._store.revision(record.name, number)
        newest = self._store.revisions(record.name, limit=1)
        return newest[0] if newest else None

    def _settings(self, record: DeploymentRecord) -> Deployment:
        current = self._current(record)
        assert current is not None  # a deployment is made together with its first revision
        return current.settings

    def _next_number(self, name: str) -> int:
        newest = self._store.revisions(name, limit=1)
        return newest[0].number + 1 if newest else 1

    def _check_quiet(self, name: str) -> None:
        """YardConflictError while a rollout is under way: one at a time."""
        rollout = self._store.rollout(name)
        if rollout is not None:
            raise YardConflictError(
                f"{name} is being rolled out to revision {rollout.target} by {rollout.origin.who} "
                f"(rollout {rollout.id})",
                remedy=f"Wait for it (`dockyard status {name}`), or `dockyard abort {name}`, then try again.",
            )

    def _image(self, revision: RevisionRecord) -> Image:
        """The image of an old revision; ImageNotFoundError when it is gone."""
        try:
            return self._parts.host.image(revision.image_digest)
        except ImageNotFoundError as error:
            image = f"{revision.image_name}@{revision.image_digest}"
            raise ImageNotFoundError(
                f"the image of revision {revision.number} of {revision.deployment} is not kept any more: {image}",
                remedy="Deploy it again from where it is, or pull it on the yard's host first.",
            ) from error

    def _back_to(self, record: DeploymentRecord, number: int | None) -> RevisionRecord:
        if number is not None:
            revision = self._store.revision(record.name, number)
            if number == record.active:
                raise YardConflictError(
                    f"revision {number} of {record.name} has the traffic already",
                    remedy=f"`dockyard history {record.name}` lists all.",
                )
            return revision
        for revision in self._store.revisions(record.name):
            if revision.number != record.active and revision.state in _BACK_TO:
                return revision
        raise UnknownInYardError(
            f"{record.name} has no earlier revision that ever had the traffic",
            remedy=f"`dockyard history {record.name}` lists all; name one to go to it.",
        )


def _masked(settings: Deployment) -> Deployment:
    """The settings without the values of variables: people put secrets there, and the audit log keeps for ever."""
    return msgspec.structs.replace(settings, environment=dict.fromkeys(settings.environment, "***"))


def _origin(cause: Cause) -> Origin:
    return Origin(cause.actor.name, cause.why)


def _differences(
    record: DeploymentRecord | None, current: RevisionRecord | None, asked: Deployment
) -> tuple[Difference, ...]:
    """The keys that change, by dotted path. A failed revision differs from all: deploying it again is a new try."""
    if record is None or current is None:
        usual = dict(_flat(Deployment(name=asked.name, image=asked.image)))
        told = [(key, value) for key, value in _flat(asked) if key in _ALWAYS_TOLD or value != usual.get(key)]
        return tuple(Difference(key=key, after=value) for key, value in told)
    settings = msgspec.structs.replace(current.settings, replicas=record.wanted)
    before, after = dict(_flat(settings)), dict(_flat(asked))
    changed = tuple(
        Difference(key=key, before=before.get(key), after=after.get(key))
        for key in dict.fromkeys((*before, *after))
        if before.get(key) != after.get(key)
    )
    if not changed and current.state is RevisionState.FAILED:
        return (Difference(key="revision", before=f"{current.number}, which failed", after="a new try"),)
    return changed


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    built = msgspec.to_builtins(value, str_keys=True) if isinstance(value, msgspec.Struct) else value
    if not isinstance(built, dict):
        return [(path, built)]
    return [pair for key, each in built.items() for pair in _flat(each, f"{path}.{key}" if path else key)]


def _steps(asked: Deployment, before: DeploymentRecord | None, number: int) -> tuple[str, ...]:
    """What will happen, for people."""
    count = f"{asked.replicas} replica{'s' if asked.replicas != 1 else ''}"
    proving = " and prove them with the image's goldens" if asked.probes.goldens and not asked.server.port else ""
    if before is None or before.active is None:
        return (f"start {count} of revision {number}{proving}", f"give all requests to revision {number}")
    old, strategy = before.active, asked.strategy
    if strategy.kind is StrategyKind.ROLLING:
        pace = f"at most {strategy.max_surge} more and {strategy.max_unavailable} fewer than {count} at a time"
        moving: tuple[str, ...] = (f"replace revision {old} replica by replica, {pace}{proving}",)
    else:
        waiting = ("wait until somebody promotes it",) if strategy.preview else ()
        moving = (
            f"start {count} of revision {number} beside revision {old}{proving}",
            *waiting,
            f"give all requests to revision {number} at once",
        )
    if strategy.keep is Keep.STOPPED:
        return (*moving, f"stop revision {old}: a rollback starts it again")
    kept = f"keep revision {old} {strategy.keep} for {strategy.rollback_window_s:g} s, for an instant rollback"
    return (*moving, kept)
