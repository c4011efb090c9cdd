"""What becomes of replicas that serve no more: kept warm, frozen or not at all, for a rollback; then retired.

A kept revision is there for its rollback window. A frozen replica answers milliseconds after it is thawed. `rollout`
releases replicas and wakes them again, `plan` looks after revisions that are out of service, and whoever is short of
memory reclaims it from here first.
"""

from __future__ import annotations

from dockyard.spec.deployment import Keep, Strategy
from dockyard.yard.draft import ASLEEP, Draft
from dockyard.yard.draining import dismiss
from dockyard.yard.state import Phase, Replica, Revision, RevisionState

POOL_IDLE_S = 5.0
"""The gateway closes a pooled connection that was idle for 4 s. So long after a replica left the traffic none is open
any more, and no request can slip into a process that is about to be frozen."""
KEPT_AT_MOST = 2
"""So many revisions are kept, however many were rolled out within their windows: each holds memory."""


def release(draft: Draft, replica: Replica, keep: Keep, why: str) -> None:
    """Take a replica out of service, and let it become what the strategy keeps."""
    draft.out.add(replica.id)
    if keep is Keep.STOPPED or replica.phase is not Phase.READY:
        dismiss(draft, replica, why)
    elif keep is Keep.FROZEN:
        draft.move(replica, Phase.FREEZING, why)


def wake(draft: Draft, replica: Replica, why: str) -> None:
    """Bring a sleeping replica back; it is an endpoint once the world says that it is ready."""
    if replica.phase is Phase.FROZEN:
        draft.thaw(replica)
    else:
        draft.move(replica, Phase.READY, why)


def put_to_sleep(draft: Draft, replica: Replica) -> None:
    """Freeze a replica whose connections have closed by now."""
    if replica.phase is not Phase.FREEZING or replica.id in draft.out:
        return
    quiet = not replica.routed and replica.in_flight == 0
    if quiet and draft.due(max(replica.since, replica.routed_since) + POOL_IDLE_S):
        draft.freeze(replica)


def look_after(draft: Draft) -> None:
    """Every revision that is out of service gets on: kept, then retired, then nothing is left of it."""
    out_of_service = _out_of_service(draft)
    for place, revision in enumerate(out_of_service):
        if revision.state is RevisionState.ACTIVE:
            draft.mark(revision.number, RevisionState.KEPT, "another revision has the traffic")
        elif revision.state is RevisionState.KEPT:
            _keep(draft, revision, place)
        else:
            _dismiss_all(draft, revision, f"revision {revision.number} is {revision.state}")


def reclaim(draft: Draft, missing: int) -> bool:
    """Let kept replicas go, the oldest revision's first, until so much memory is on its way back; False: it is not."""
    for revision in reversed(_out_of_service(draft)):
        for replica in draft.all(revision.number):
            if missing > 0 and revision.state is RevisionState.KEPT and replica.phase in (*ASLEEP, Phase.READY):
                dismiss(draft, replica, "its memory is needed")
                missing -= revision.memory
    return missing <= 0


def reclaim_spare(draft: Draft, revision: int | None, missing: int) -> bool:
    """The same with what was released of a rollout's source."""
    for replica in draft.all(revision):
        spare = replica.phase in ASLEEP or (replica.phase is Phase.READY and replica.id in draft.out)
        if missing > 0 and spare:
            dismiss(draft, replica, "its memory is needed")
            missing -= draft.revision(replica).memory
    return missing <= 0


def _out_of_service(draft: Draft) -> list[Revision]:
    """Revisions that serve nothing and are part of no rollout; those that served last come first."""
    serving = {draft.deployment.active}
    if draft.rollout is not None:
        serving |= {draft.rollout.source, draft.rollout.target}
    out = (each for number, each in draft.deployment.revisions.items() if number not in serving)
    return sorted(out, key=lambda each: (each.state is not RevisionState.KEPT, -each.state_since, -each.number))


def _keep(draft: Draft, revision: Revision, place: int) -> None:
    strategy = _strategy(draft, revision)
    if place >= KEPT_AT_MOST:
        draft.mark(revision.number, RevisionState.RETIRED, f"{KEPT_AT_MOST} newer ones are kept")
    elif draft.due(revision.state_since + strategy.rollback_window_s):
        draft.mark(revision.number, RevisionState.RETIRED, "its rollback window is over")
    for replica in draft.all(revision.number):
        if replica.phase in ASLEEP and strategy.keep is not Keep.STOPPED:
            put_to_sleep(draft, replica)
        elif replica.id not in draft.out:
            release(draft, replica, strategy.keep, f"revision {revision.number} is kept {strategy.keep}")


def _strategy(draft: Draft, revision: Revision) -> Strategy:
    """What the revision that took over says of those before it."""
    active = draft.deployment.active
    return (revision if active is None else draft.deployment.revisions[active]).strategy


def _dismiss_all(draft: Draft, revision: Revision, why: str) -> None:
    for replica in draft.all(revision.number):
        dismiss(draft, replica, why)
