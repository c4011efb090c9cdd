"""The host's memory while a plan is made: what is free, what is on its way back, what is promised.

A replica's share is its limit, from its start to its end, also while it is frozen or between two starts. `draft` and
`rollout` ask before they plan a start, so that no plan ever spends a byte twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dockyard.spec.resources import format_bytes
from dockyard.yard.state import DeploymentState, Phase, Replica, RevisionState, RolloutPhase, World

_HOLDS_NONE = frozenset({Phase.CREATED, Phase.STOPPED})
_OVER = frozenset({RolloutPhase.DONE, RolloutPhase.FAILED})
_GOES = frozenset({RevisionState.RETIRED, RevisionState.FAILED})


class Memory:
    """A ledger of bytes. `free` can be negative: when the host has less than it had.

    `promised` is not for everybody: it belongs to replicas that are created and not started yet, at whose sockets
    requests may be waiting; and to the way back of a rollout that stopped its source, or goes back to it just now.
    """

    def __init__(self, world: World) -> None:
        self.total = world.memory
        self.free = world.memory
        self.promised = 0
        self._way_back: dict[str, int] = {}
        self._leaving = 0
        self._leaving_of: dict[str, int] = {}
        for deployment in world.deployments:
            self._enter(deployment)

    def _enter(self, deployment: DeploymentState) -> None:
        for replica in deployment.replicas:
            memory = deployment.revisions[replica.revision].memory
            self.free -= _held(replica, memory)
            if replica.phase is Phase.CREATED:
                self.promised += memory
            if _leaves_anyway(deployment, replica):
                self._leave(deployment, replica)

        if way_back := _way_back(deployment):
            self._way_back[deployment.name] = way_back
            self.promised += way_back

    @contextmanager
    def turn_of(self, deployment: str) -> Iterator[None]:
        """While one deployment is planned, what is promised to its way back is free for it."""
        own = self._way_back.get(deployment, 0)
        self.promised -= own
        before = self.free - self.promised
        yield
        used = before - (self.free - self.promised)
        self.promised += max(0, own - used)

    def fits(self, need: int) -> bool:
        """Whether so much can be started now."""
        return self.free - self.promised >= need

    def take(self, need: int) -> bool:
        """Take it for a start; False: it is not there."""
        if fits := self.fits(need):
            self.free -= need
        return fits

    def keep_promise(self, need: int) -> bool:
        """Take it for a created replica; False: what makes room for it is not gone yet."""
        if fits := self.free >= need:
            self.free -= need
            self.promised -= need
        return fits

    def leaves(self, deployment: DeploymentState, replica: Replica) -> None:
        """A replica is sent away by this plan: its share is on its way back."""
        if not _leaves_anyway(deployment, replica):
            self._leave(deployment, replica)

    def _leave(self, deployment: DeploymentState, replica: Replica) -> None:
        memory = _held(replica, deployment.revisions[replica.revision].memory)
        self._leaving += memory
        self._leaving_of[deployment.name] = self._leaving_of.get(deployment.name, 0) + memory

    def missing(self, need: int) -> int:
        """How much is missing when all that is leaving has left; zero or less: it is a matter of waiting."""
        return need - (self.free - self.promised + self._leaving)

    def most_for(self, deployment: DeploymentState) -> int:
        """How much there could be for a deployment if nothing of its own were running."""
        own = created = 0
        for replica in deployment.replicas:
            memory = deployment.revisions[replica.revision].memory
            own += _held(replica, memory)
            created += memory if replica.phase is Phase.CREATED else 0
        others = self._leaving - self._leaving_of.get(deployment.name, 0)
        return self.free - self.promised + own + created + others

    def figures(self) -> str:
        """What is free, for people."""
        return f"{format_bytes(max(0, self.free - self.promised))} of {format_bytes(self.total)} are free"


def _way_back(deployment: DeploymentState) -> int:
    """What the source of a rollout needs beyond what its deployment has, if it was stopped before its time."""
    rollout = deployment.rollout
    if deployment.deleted or rollout is None or rollout.source is None:
        return 0
    if rollout.phase is not RolloutPhase.ABORTING and (rollout.phase in _OVER or not rollout.holding):
        return 0
    has = sum(deployment.revisions[each.revision].memory for each in deployment.replicas)
    return max(0, deployment.wanted * deployment.revisions[rollout.source].memory - has)


def _leaves_anyway(deployment: DeploymentState, replica: Replica) -> bool:
    if deployment.deleted or replica.phase is Phase.DRAINING:
        return True
    rollout = deployment.rollout
    rolls = rollout is not None and replica.revision in (rollout.source, rollout.target)
    return not rolls and deployment.revisions[replica.revision].state in _GOES


def _held(replica: Replica, memory: int) -> int:
    return 0 if replica.phase in _HOLDS_NONE else memory
