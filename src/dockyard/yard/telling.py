"""What changes nothing: status, history, rollouts, events, logs, drift, load. The store's records as the API's nouns.

`service` offers it to the API. Followers are served by looking again several times a second: a look costs a few reads
of the store, and nothing can be missed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from difflib import get_close_matches

import msgspec

from dockyard import __version__
from dockyard.errors import UnknownInYardError
from dockyard.oci.image import Platform
from dockyard.spec import status as told
from dockyard.spec.status import AccessLine, DeploymentStatus, DriftItem, LogLine, RolloutUpdate, YardInfo
from dockyard.yard.accesslog import Filter, follow
from dockyard.yard.accesslog import tail as read_tail
from dockyard.yard.drift import drift_of
from dockyard.yard.inflight import InFlight
from dockyard.yard.operations import Actor
from dockyard.yard.parts import Parts
from dockyard.yard.records import DeploymentSnapshot, ReplicaRecord, RevisionRecord, RolloutRecord
from dockyard.yard.records import Event as EventRecord
from dockyard.yard.replica_logs import followed_lines, kept_lines
from dockyard.yard.state import Phase, RevisionState, RolloutPhase
from dockyard.yard.urls import preview_urls, urls

LOOK_S = 0.2
_ERRORS = {"replica.crashed", "rollout.failed", "gateway.refused", "yard.fault", "engine.gone"}
_WARNINGS = {"replica.stop-failed", "yard.step-failed"}
_SUCCESSES = {"rollout.done", "replica.ready"}


class Telling:
    """The reading operations."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store
        self._in_flight = InFlight(parts.gateway)

    async def info(self, actor: Actor) -> YardInfo:
        """The yard itself."""
        return YardInfo(
            version=__version__,
            host=socket.gethostname(),
            started=self._parts.started,
            engine=self._parts.host.default_engine,
            gateway=(self._parts.gateway.address,),
            placement=dict(self._parts.host.labels),
            platform=str(Platform.host()),
            deployments=len(self._store.deployments()),
            you=actor.name,
            scope=actor.scope,
        )

    async def deployments(self) -> tuple[DeploymentStatus, ...]:
        """All deployments by name."""
        in_flight = await self._in_flight.now()
        return tuple(self._status(each, in_flight) for each in self._store.snapshot())

    async def status(self, name: str) -> DeploymentStatus:
        """One deployment, with what is asked of it, and what was with each of its revisions."""
        in_flight = await self._in_flight.now()
        snapshot = self._snapshot(name)
        shown, known = self._status(snapshot, in_flight), snapshot.revisions
        revisions = tuple(msgspec.structs.replace(each, asked=known[each.number].settings) for each in shown.revisions)
        current = known.get(_current(snapshot) or 0)
        asked = msgspec.structs.replace(current.settings, replicas=snapshot.deployment.wanted) if current else None
        return msgspec.structs.replace(shown, revisions=revisions, asked=asked)

    async def history(self, name: str) -> tuple[told.Revision, ...]:
        """All its revisions, the newest first."""
        revisions = self._store.revisions(name)
        if not revisions:
            raise self._unknown(name)
        receipts = {each.target: each for each in reversed(self._store.rollouts(name)) if each.receipt}
        return tuple(_revision(each, receipts.get(each.number)) for each in revisions)

    async def rollout(self, name: str, number: int | None) -> AsyncIterator[RolloutUpdate]:
        """How a rollout gets on, at every change until its end."""
        rollout = self._rollout(name, number)
        last: RolloutUpdate | None = None
        while True:
            in_flight = await self._in_flight.now()
            rollout = self._rollout(name, rollout.id)
            update = self._update(name, rollout, in_flight)
            if last is None or msgspec.structs.replace(update, at=last.at) != last:
                last = update
                yield update
            if rollout.ended is not None and rollout.receipt is not None:
                return
            await asyncio.sleep(LOOK_S)

    async def events(self, since: int, *, deployment: str, follow: bool) -> AsyncIterator[told.Event]:
        """Events with a number above `since`, the oldest first."""
        if deployment:
            self._known(deployment)
        while True:
            found = self._store.events.after(since, deployment=deployment or None)
            for event in found:
                since = event.sequence
                yield _event(event)
            if not found and not follow:
                return
            if not found:
                await asyncio.sleep(LOOK_S)

    async def logs(self, name: str, *, replica: str, tail: int | None, follow: bool) -> AsyncIterator[LogLine]:
        """What the replicas write; following goes on over new ones."""
        self._known(name)
        reading = followed_lines if follow else kept_lines
        async with aclosing(reading(self._parts.host, self._store, name, replica, tail)) as lines:
            async for line in lines:
                yield line

    async def access(self, name: str, *, status: str, revision: int | None, tail: int) -> tuple[AccessLine, ...]:
        """The last requests to it, as the gateway noted them."""
        self._known(name)
        wanted = Filter(deployment=name, revision=revision, status=status)
        lines = await asyncio.to_thread(read_tail, self._parts.gateway.access_log, tail, wanted)
        return tuple(msgspec.convert(line, AccessLine, strict=False) for line in lines)

    async def follow_access(
        self, name: str, *, status: str, revision: int | None, tail: int
    ) -> AsyncIterator[AccessLine]:
        """The last requests to it, then each new one."""
        self._known(name)
        wanted = Filter(deployment=name, revision=revision, status=status)
        async with aclosing(follow(self._parts.gateway.access_log, tail, wanted)) as lines:
            async for line in lines:
                yield msgspec.convert(line, AccessLine, strict=False)

    async def drift(self, name: str) -> tuple[DriftItem, ...]:
        """What runs otherwise than it was asked for."""
        if name:
            self._known(name)
        snapshots = tuple(each for each in self._store.snapshot() if name in {"", each.deployment.name})
        return await drift_of(snapshots, self._parts)

    def _status(self, snapshot: DeploymentSnapshot, in_flight: Mapping[str, int]) -> DeploymentStatus:
        deployment, rollout = snapshot.deployment, snapshot.rollout
        shown = snapshot.revisions.get(deployment.active or (rollout.target if rollout else 0))
        ready = [each for each in snapshot.replicas if each.phase is Phase.READY]
        of_active = [each for each in ready if each.revision == deployment.active]
        problem = self._problem(snapshot)
        return DeploymentStatus(
            name=deployment.name,
            state=_state(snapshot, len(of_active), problem),
            image=f"{shown.image_name}@{shown.image_digest}" if shown else "",
            wanted=deployment.wanted,
            ready=len(of_active),
            active=deployment.active,
            created=deployment.created,
            changed=max((each.state_since for each in snapshot.revisions.values()), default=deployment.created),
            revisions=tuple(_revision(each, None) for _, each in sorted(snapshot.revisions.items(), reverse=True)),
            replicas=tuple(self._replica(each, in_flight) for each in snapshot.replicas),
            traffic=self._traffic(deployment.name),
            rollout=self._told_rollout(snapshot, rollout) if rollout else None,
            problem=problem,
            urls=urls(self._parts.gateway.address, deployment.name, shown.settings if shown else None),
            preview_urls=preview_urls(self._parts.gateway.address, snapshot, self._parts.reconciler.traffic),
        )

    def _replica(self, record: ReplicaRecord, in_flight: Mapping[str, int]) -> told.Replica:
        return told.Replica(
            id=record.id,
            revision=record.revision,
            phase=record.phase,
            since=record.since,
            crashes=record.crashes,
            routed=record.id in self._parts.reconciler.routed,
            in_flight=in_flight.get(record.id, 0),
            container=record.container,
            engine=record.engine,
        )

    def _traffic(self, name: str) -> tuple[told.Share, ...]:
        traffic = self._parts.reconciler.traffic.get(name)
        if traffic is None:
            return ()
        whole = sum(traffic.weights.values()) or 1
        shares = [
            told.Share(revision=number, weight=round(100 * weight / whole))
            for number, weight in sorted(traffic.weights.items())
        ]
        if traffic.preview is not None:
            shares.append(told.Share(revision=traffic.preview, weight=0, preview=True))
        return tuple(shares)

    def _told_rollout(self, snapshot: DeploymentSnapshot, rollout: RolloutRecord) -> told.Rollout:
        target = snapshot.revisions.get(rollout.target) or self._store.revision(rollout.deployment, rollout.target)
        ready = sum(each.phase is Phase.READY for each in snapshot.replicas if each.revision == rollout.target)
        wanted = snapshot.deployment.wanted
        strategy = target.settings.strategy
        ended = rollout.ended is not None
        return told.Rollout(
            id=rollout.id,
            source=rollout.source,
            target=rollout.target,
            strategy=strategy.kind,
            phase=rollout.phase,
            since=rollout.since,
            started=rollout.started,
            progress=1.0 if ended else min(0.95, ready / wanted if wanted else 0.95),
            message=rollout.aborted or rollout.phase_why or _waiting(rollout, ready, wanted),
            ready=ready,
            wanted=wanted,
            deadline=None if ended else rollout.progress + strategy.progress_deadline_s,
            holding=rollout.holding,
        )

    def _update(self, name: str, rollout: RolloutRecord, in_flight: Mapping[str, int]) -> RolloutUpdate:
        snapshot = next((each for each in self._store.snapshot() if each.deployment.name == name), None)
        if snapshot is None:
            raise self._unknown(name)
        return RolloutUpdate(
            at=self._store.now(),
            rollout=self._told_rollout(snapshot, rollout),
            replicas=tuple(self._replica(each, in_flight) for each in snapshot.replicas),
            traffic=self._traffic(name),
            problem=self._problem(snapshot),
            receipt=msgspec.convert(rollout.receipt, told.Receipt) if rollout.receipt else None,
        )

    def _problem(self, snapshot: DeploymentSnapshot) -> told.Problem | None:
        """The last crash, or a rollout that failed without one, unless something has succeeded since."""
        failed = None
        for event in reversed(self._store.events.newest(deployment=snapshot.deployment.name, limit=50)):
            if event.kind in _SUCCESSES:
                break
            if event.kind in _ERRORS:
                failed = failed if failed and not event.replica else event
                if event.replica:
                    break
        if failed is None:
            return None
        log = tuple(failed.detail.splitlines()[-20:])
        return told.Problem(
            at=failed.time,
            what=failed.text,
            reason=failed.reason,
            revision=failed.revision,
            replica=failed.replica,
            log=log,
        )

    def _rollout(self, name: str, number: int | None) -> RolloutRecord:
        if number is None:
            found = next(iter(self._store.rollouts(name, limit=1)), None)
        else:
            found = self._store.numbered_rollout(name, number)
        if found is not None:
            return found
        raise UnknownInYardError(
            f"{name} has no rollout{'' if number is None else f' {number}'}",
            remedy=f"`dockyard history {name}` lists what was rolled out.",
        )

    def _snapshot(self, name: str) -> DeploymentSnapshot:
        for each in self._store.snapshot():
            if each.deployment.name == name:
                return each
        raise self._unknown(name)

    def _known(self, name: str) -> None:
        if not self._store.revisions(name, limit=1):
            raise self._unknown(name)

    def _unknown(self, name: str) -> UnknownInYardError:
        names = [each.name for each in self._store.deployments()]
        close = get_close_matches(name, names, n=3)
        remedy = f"Did you mean {' or '.join(close)}?" if close else "`dockyard status` lists all."
        return UnknownInYardError(f"there is no deployment {name[:80]!r}", remedy=remedy)


def _current(snapshot: DeploymentSnapshot) -> int | None:
    return snapshot.deployment.active or (snapshot.rollout.target if snapshot.rollout else None)


def _state(snapshot: DeploymentSnapshot, ready: int, problem: told.Problem | None) -> str:
    deployment = snapshot.deployment
    if deployment.deleted is not None:
        return "deleting"
    if snapshot.rollout is not None:
        return "rolling out"
    if deployment.active is None:
        return "failed"
    if deployment.wanted == 0:
        return "asleep"
    if ready >= deployment.wanted:
        return "healthy"
    return "degraded" if ready or problem is None else "failed"


def _waiting(rollout: RolloutRecord, ready: int, wanted: int) -> str:
    match rollout.phase:
        case RolloutPhase.STARTING:
            return f"{ready} of {wanted} replicas of revision {rollout.target} are ready"
        case RolloutPhase.PREVIEW:
            return f"revision {rollout.target} is ready and waits for `dockyard promote`"
        case RolloutPhase.SWITCHING:
            return f"requests move to revision {rollout.target}"
        case RolloutPhase.ABORTING:
            return "requests go back, the new replicas are stopped"
        case _:
            return ""


def _revision(record: RevisionRecord, rollout: RolloutRecord | None) -> told.Revision:
    return told.Revision(
        number=record.number,
        image=f"{record.image_name}@{record.image_digest}",
        state=record.state,
        state_since=record.state_since,
        created=record.created,
        who=record.origin.who,
        why=record.origin.why,
        outcome=record.state_why or ("has the traffic" if record.state is RevisionState.ACTIVE else ""),
        receipt=msgspec.convert(rollout.receipt, told.Receipt) if rollout and rollout.receipt else None,
    )


def _event(record: EventRecord) -> told.Event:
    level = "error" if record.kind in _ERRORS else "warning" if record.kind in _WARNINGS else "info"
    return told.Event(
        number=record.sequence,
        at=record.time,
        kind=record.kind,
        what=record.text,
        deployment=record.deployment,
        level=level,
        revision=record.revision,
        replica=record.replica,
        reason=record.reason,
        detail=record.detail,
    )
