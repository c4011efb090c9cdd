"""How a revision gets the number of replicas that it should have: heal what crashed, wake what sleeps, start the rest.

`plan` calls it for a deployment at rest, `rollout` for either side of a move.
"""

from __future__ import annotations

from dockyard.yard import healing
from dockyard.yard.draft import Draft, by_readiness
from dockyard.yard.draining import dismiss
from dockyard.yard.keeping import reclaim, wake
from dockyard.yard.state import Phase, Replica


def hold_at(draft: Draft, revision: int, count: int) -> None:
    """Have `count` replicas of the revision that serves; what lacks memory for that is told."""
    short = adjust(draft, revision, count)
    if short:
        memory = draft.deployment.revisions[revision].memory
        reclaim(draft, draft.memory.missing(short * memory))
        draft.note(f"{short} of {count} replicas of revision {revision} wait for memory: {draft.memory.figures()}")
    if draft.ready(revision):
        _let_go_of_created(draft, revision)


def adjust(draft: Draft, revision: int, count: int, *, most: int | None = None, holding: bool = False) -> int:
    """Get on towards `count` replicas, no fewer, no more, none asleep.

    New ones are started only up to `most`; returns how many of them lack memory. `holding`: those are created, and
    started as soon as there is some.
    """
    _shrink(draft, revision, count)
    heal(draft, revision)
    live = len(draft.live(revision))
    sleeping = draft.asleep(revision)[: max(0, count - live)]
    for replica in sleeping:
        wake(draft, replica, "needed again")
    there = live + len(sleeping)
    missing = max(0, (count if most is None else min(count, most)) - there)
    return missing - _start(draft, revision, missing, holding=holding)


def heal(draft: Draft, revision: int) -> None:
    """Start what has crashed, when its pause is over; and what was created, when there is memory for it."""
    for replica in draft.live(revision):
        if replica.phase is not Phase.READY and replica.id not in draft.out:
            _heal(draft, replica)


def _shrink(draft: Draft, revision: int, count: int) -> None:
    """Send away what is more than `count`: first what does not serve yet, then the youngest."""
    surplus = by_readiness(draft.live(revision))[count:]
    for replica in surplus:
        dismiss(draft, replica, f"{count} replicas are wanted")
    if len(draft.live(revision)) >= count:
        for replica in draft.asleep(revision):
            dismiss(draft, replica, f"{count} replicas are wanted")


def _heal(draft: Draft, replica: Replica) -> None:
    revision = draft.revision(replica)
    if replica.phase is Phase.CRASHED and draft.due(healing.restart_at(replica)):
        draft.restart(replica)
    elif replica.phase is Phase.CREATED:
        _start_created(draft, replica, revision.memory)
    elif replica.phase is Phase.STARTING and draft.due(healing.start_lost_at(replica, revision.probes)):
        draft.move(replica, Phase.CRASHED, "nobody is waiting for its start any more")


def _let_go_of_created(draft: Draft, revision: int) -> None:
    """Nobody waits at a created replica's socket while another one serves: it need not keep memory from others."""
    for replica in draft.live(revision):
        if replica.phase is Phase.CREATED and draft.memory.free < draft.revision(replica).memory:
            dismiss(draft, replica, "there is no memory for it")


def _start_created(draft: Draft, replica: Replica, memory: int) -> None:
    if draft.memory.keep_promise(memory):
        draft.restart(replica)
    else:
        reclaim(draft, draft.memory.missing(0))


def _start(draft: Draft, revision: int, count: int, *, holding: bool) -> int:
    """Start up to `count`, and return how many were started or created."""
    memory = draft.deployment.revisions[revision].memory
    for done in range(count):
        if draft.memory.take(memory):
            draft.start(revision)
        elif holding:
            draft.create(revision)
        else:
            return done
    return count
