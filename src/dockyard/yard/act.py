"""Carries out the steps of a plan: notes in the store what is decided, and orders the fleet to do the rest.

`reconcile` calls it after the gateway has accepted the plan's traffic. What takes long goes on in the background; what
fails is told in an event, and planned again.
"""

from __future__ import annotations

import secrets
from functools import singledispatchmethod

from dockyard.errors import DockyardError, UnknownInYardError
from dockyard.yard.fleet import Fleet
from dockyard.yard.host import Host
from dockyard.yard.records import ReplicaRecord
from dockyard.yard.state import Advance, Create, Forget, Freeze, Mark, Move, Phase, Restart, Start, Step, Stop, Thaw
from dockyard.yard.store import Store

_REMEMBERED = 1000


class Actor:
    """Turns steps into deeds."""

    def __init__(self, host: Host, store: Store, fleet: Fleet) -> None:
        self._host = host
        self._store = store
        self._fleet = fleet
        self._failures: dict[Step, str] = {}

    async def act(self, step: Step) -> bool:
        """One step; whether it changed anything. A replica with an order under way can only be told to go."""
        replica = getattr(step, "replica", None)
        if replica is not None and self._fleet.busy(replica) and not _sends_away(step):
            return False
        try:
            changed = await self._do(step)
        except UnknownInYardError:
            return True  # it went while this round was deciding: plan again
        except DockyardError as error:
            self._failed(step, error)
            return False
        self._failures.pop(step, None)
        return changed

    def _failed(self, step: Step, error: DockyardError) -> None:
        """Tell it once: the step is planned again, and mostly fails again for the same reason."""
        if self._failures.get(step) == error.what:
            return
        if len(self._failures) >= _REMEMBERED:
            self._failures.clear()
        self._failures[step] = error.what
        what = f"{type(step).__name__.lower()} {getattr(step, 'replica', step.deployment)}: {error.what}"
        revision = getattr(step, "revision", None)
        self._store.events.add(
            "yard.step-failed", what, deployment=step.deployment, revision=revision, detail=str(error)
        )

    @singledispatchmethod
    async def _do(self, step: Step) -> bool:
        raise TypeError(f"nobody knows how to carry out {step!r}")

    @_do.register
    async def _(self, step: Start) -> bool:
        self._fleet.start(self._add(step.deployment, step.revision))
        return True

    @_do.register
    async def _(self, step: Create) -> bool:
        record = self._add(step.deployment, step.revision)
        self._fleet.hold(record)
        self._store.set_phase(record.id, Phase.CREATED)
        return True

    @_do.register
    async def _(self, step: Restart) -> bool:
        self._fleet.start(self._store.set_phase(step.replica, Phase.STARTING))
        return True

    @_do.register
    async def _(self, step: Move) -> bool:
        self._store.set_phase(step.replica, step.phase)
        return True

    @_do.register
    async def _(self, step: Stop) -> bool:
        return self._fleet.stop(self._store.replica(step.replica), step.grace, step.why)

    @_do.register
    async def _(self, step: Freeze) -> bool:
        await self._fleet.freeze(self._store.replica(step.replica))
        return True

    @_do.register
    async def _(self, step: Thaw) -> bool:
        await self._fleet.thaw(self._store.replica(step.replica))
        return True

    @_do.register
    async def _(self, step: Advance) -> bool:
        rollout = self._store.advance(step)
        text = f"rollout to revision {rollout.target}: {step.phase}{f', {step.why}' if step.why else ''}"
        self._store.events.add(f"rollout.{step.phase}", text, deployment=step.deployment, revision=rollout.target)
        return True

    @_do.register
    async def _(self, step: Mark) -> bool:
        self._store.mark(step.deployment, step.revision, step.state, step.why)
        return True

    @_do.register
    async def _(self, step: Forget) -> bool:
        self._store.forget(step.deployment)
        self._store.events.add("deployment.deleted", f"{step.deployment} is gone", deployment=step.deployment)
        return True

    def _add(self, deployment: str, number: int) -> ReplicaRecord:
        """A replica's record, before anything of it is there."""
        revision = self._store.revision(deployment, number)
        engine = revision.settings.engine or self._host.default_engine
        name = f"{deployment}-{number}-{secrets.token_hex(3)}"
        return self._store.add_replica(name, deployment, number, engine=engine, folder=self._host.sockets / name)


def _sends_away(step: Step) -> bool:
    """A start that nobody wants any more is ended, and not waited for."""
    return isinstance(step, Stop) or (isinstance(step, Move) and step.phase is Phase.DRAINING)
