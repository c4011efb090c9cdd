"""The plan of one deployment while it is being made: what there is, by revision, and the steps so far.

`plan` makes one for each deployment; `rollout`, `scaling`, `draining`, `keeping` and `routing` read it and add to it.
It lives for one call and touches nothing outside itself but the ledger of memory.
"""

from __future__ import annotations

from collections.abc import Iterable

from dockyard.yard.capacity import Memory
from dockyard.yard.state import (
    Advance,
    Create,
    DeploymentState,
    Freeze,
    Mark,
    Move,
    Note,
    Phase,
    Replica,
    Restart,
    Revision,
    RevisionState,
    Rollout,
    RolloutPhase,
    Start,
    Step,
    Stop,
    Thaw,
    Traffic,
)

LIVE = frozenset({Phase.CREATED, Phase.STARTING, Phase.READY, Phase.CRASHED})
ASLEEP = frozenset({Phase.FREEZING, Phase.FROZEN})
STOP_GRACE_S = 10.0
"""Between SIGTERM and SIGKILL. A replica is drained before, so nothing but its own tidying up takes time."""


class Draft:
    """What is planned for `deployment` at `now`. A replica that was sent away is in `out`: no endpoint, not healed."""

    def __init__(self, deployment: DeploymentState, now: float, memory: Memory) -> None:
        self.deployment = deployment
        self.now = now
        self.memory = memory
        self.traffic = Traffic({}, {})
        self.steps: list[Step] = []
        self.notes: list[Note] = []
        self.wake: float | None = None
        self.out: set[str] = set()
        self._leaving: set[str] = set()
        self._touched: set[str] = set()
        self._by_revision: dict[int, list[Replica]] = {}
        for replica in deployment.replicas:
            self._by_revision.setdefault(replica.revision, []).append(replica)

    # What there is.

    @property
    def rollout(self) -> Rollout | None:
        """The rollout that is under way."""
        rollout = self.deployment.rollout
        over = rollout is None or rollout.phase in (RolloutPhase.DONE, RolloutPhase.FAILED)
        return None if over else rollout

    def revision(self, replica: Replica) -> Revision:
        """The revision of a replica."""
        return self.deployment.revisions[replica.revision]

    def all(self, revision: int | None) -> list[Replica]:
        """Every replica of a revision."""
        return [] if revision is None else self._by_revision.get(revision, [])

    def live(self, revision: int | None) -> list[Replica]:
        """Those that serve or are on their way to."""
        return [each for each in self.all(revision) if each.phase in LIVE]

    def ready(self, revision: int | None) -> list[Replica]:
        """Those that are proven and stay."""
        return [each for each in self.all(revision) if each.phase is Phase.READY and each.id not in self.out]

    def asleep(self, revision: int | None) -> list[Replica]:
        """Those that are frozen, or about to be, and stay."""
        return [each for each in self.all(revision) if each.phase in ASLEEP and each.id not in self.out]

    def due(self, when: float) -> bool:
        """Whether that time has come; if not, the plan wakes then."""
        if self.now >= when:
            return True
        self.wake = when if self.wake is None else min(self.wake, when)
        return False

    # What is to be done.

    def send_away(self, replica: Replica) -> None:
        """It is in service no more, and its memory comes back."""
        if replica.id not in self._leaving:
            self._leaving.add(replica.id)
            self.out.add(replica.id)
            self.memory.leaves(self.deployment, replica)

    def start(self, revision: int) -> None:
        """Start one more replica; its memory has been taken."""
        self.steps.append(Start(self.deployment.name, revision))

    def starts(self, revision: int) -> bool:
        """Whether a new replica of a revision is started by this plan."""
        return any(isinstance(each, Start) and each.revision == revision for each in self.steps)

    def create(self, revision: int) -> None:
        """Make one more replica that waits for memory."""
        self.memory.promised += self.deployment.revisions[revision].memory
        self.steps.append(Create(self.deployment.name, revision))

    def restart(self, replica: Replica) -> None:
        """Start the container of a replica that has none."""
        self._about(replica, Restart(self.deployment.name, replica.id))

    def move(self, replica: Replica, phase: Phase, why: str) -> None:
        """Note a replica's new phase. Whatever it becomes, it is an endpoint no sooner than the world says READY."""
        self._about(replica, Move(self.deployment.name, replica.id, phase, why))

    def stop(self, replica: Replica, why: str) -> None:
        """End a replica for good."""
        self._about(replica, Stop(self.deployment.name, replica.id, STOP_GRACE_S, why))

    def freeze(self, replica: Replica) -> None:
        """Pause a replica."""
        self._about(replica, Freeze(self.deployment.name, replica.id))

    def thaw(self, replica: Replica) -> None:
        """Wake a frozen replica."""
        self._about(replica, Thaw(self.deployment.name, replica.id))

    def advance(self, phase: RolloutPhase, why: str = "", *, holding: bool = False) -> None:
        """Note that the rollout got somewhere."""
        self.steps.append(Advance(self.deployment.name, phase, why, progressed=True, holding=holding))

    def mark(self, revision: int, state: RevisionState, why: str) -> None:
        """Note what became of a revision."""
        self.steps.append(Mark(self.deployment.name, revision, state, why))

    def note(self, text: str) -> None:
        """Tell people what is waited for."""
        self.notes.append(Note(self.deployment.name, text))

    def _about(self, replica: Replica, step: Step) -> None:
        """The first word about a replica counts: what was decided for the traffic's sake comes before upkeep."""
        if replica.id not in self._touched:
            self._touched.add(replica.id)
            self.steps.append(step)


def by_readiness(replicas: Iterable[Replica]) -> list[Replica]:
    """The most useful first: ready ones, the longest ready before others; then those that get there soonest."""
    return sorted(replicas, key=lambda each: (_RANK.get(each.phase, 9), each.since, each.id))


_RANK = {Phase.READY: 0, Phase.STARTING: 1, Phase.CRASHED: 2, Phase.CREATED: 3}
