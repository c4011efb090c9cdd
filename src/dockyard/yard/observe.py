"""What the planner is shown: the store's records, with what the gateway says of each replica. Pure.

`reconcile` calls it before every plan, `service` for a dry run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dockyard.gateway.snapshot import Snapshot
from dockyard.yard.records import DeploymentSnapshot
from dockyard.yard.state import DeploymentState, World


@dataclass
class Routed:
    """Which replicas get new requests, by the snapshot that the gateway accepted last, and since when.

    While nobody knows, all count as routed, so that nothing is stopped which might be asked something.
    """

    begun: float
    accepted: Snapshot | None = None
    now: frozenset[str] = frozenset()
    since: dict[str, float] = field(default_factory=dict)

    def accept(self, snapshot: Snapshot, at: float) -> None:
        """The gateway has accepted this."""
        before, known = self.now, self.accepted is not None
        self.accepted = snapshot
        listed = [each for one in snapshot.services for some in one.endpoints.values() for each in some]
        self.now = frozenset(each.id for each in listed if not each.draining)
        there = {each.id for each in listed}
        self.since = {name: time for name, time in self.since.items() if name in there or name in before}
        self.since |= dict.fromkeys(self.now ^ before if known else there, at)

    def __contains__(self, replica: str) -> bool:
        return self.accepted is None or replica in self.now


def world_of(
    snapshots: Iterable[DeploymentSnapshot], routed: Routed, in_flight: Mapping[str, int], memory: int
) -> World:
    """The world as it is. `in_flight`: requests by replica, of those that were counted; `memory`: bytes for all."""
    return World(tuple(_state_of(each, routed, in_flight) for each in snapshots), memory)


def _state_of(snapshot: DeploymentSnapshot, routed: Routed, in_flight: Mapping[str, int]) -> DeploymentState:
    deployment = snapshot.deployment
    return DeploymentState(
        name=deployment.name,
        wanted=deployment.wanted,
        active=deployment.active,
        revisions={number: record.planning() for number, record in snapshot.revisions.items()},
        replicas=tuple(
            record.planning(
                routed=record.id in routed,
                in_flight=in_flight.get(record.id, 0),
                routed_since=routed.since.get(record.id, routed.begun),
            )
            for record in snapshot.replicas
        ),
        rollout=snapshot.rollout.planning() if snapshot.rollout else None,
        deleted=deployment.deleted is not None,
    )
