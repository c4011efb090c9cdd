"""How a deployment gets from one revision to the next, and back when that fails. Pure; `plan` calls `go_on`.

    STARTING -> (PREVIEW) -> SWITCHING -> DONE          the target has the traffic; the source is kept
        any of these      -> ABORTING  -> FAILED        the source has the traffic again; the target's replicas go

Nothing is remembered between two calls but what the world shows, so it does not matter what was interrupted, or how
often the same is planned. Rolling moves replica by replica, blue-green all at once; the way back is the way there with
the sides changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from dockyard.spec.deployment import Keep, Strategy, StrategyKind
from dockyard.spec.resources import format_bytes
from dockyard.yard import healing
from dockyard.yard.draft import Draft, by_readiness
from dockyard.yard.draining import dismiss
from dockyard.yard.keeping import put_to_sleep, reclaim, reclaim_spare, release, wake
from dockyard.yard.routing import share
from dockyard.yard.scaling import adjust, heal, hold_at
from dockyard.yard.state import Phase, Replica, Rollout, RolloutPhase


def go_on(draft: Draft, rollout: Rollout) -> None:
    """The next steps of a rollout, and the traffic meanwhile."""
    if rollout.phase is RolloutPhase.ABORTING:
        _go_back(draft, rollout)
    elif (trouble := _trouble(draft, rollout)) and _may_go_back(draft, rollout):
        _turn_back(draft, rollout, trouble)
    elif trouble and _overdue(draft, rollout):
        _switch(draft, rollout, f"{trouble}; but revision {rollout.source} has no ready replica, and this one has")
    elif rollout.phase is RolloutPhase.SWITCHING:
        _finish(draft, rollout)
    elif _strategy(draft, rollout).kind is StrategyKind.BLUE_GREEN:
        _blue_green(draft, rollout)
    else:
        _rolling(draft, rollout)
    for replica in draft.asleep(rollout.source):
        put_to_sleep(draft, replica)


# Forward.


def _rolling(draft: Draft, rollout: Rollout) -> None:
    """Replica by replica: start what fits, let go what is replaced, until nothing of the source is needed."""
    turn = _roll(draft, rollout, rollout.source, rollout.target, _strategy(draft, rollout).keep)
    if turn.short and not turn.moving:
        _make_room(draft, rollout, rollout.target, 1)
    if len(draft.ready(rollout.target)) >= draft.deployment.wanted:
        draft.advance(RolloutPhase.SWITCHING)
    share(draft, _carriers(draft, rollout))


def _blue_green(draft: Draft, rollout: Rollout) -> None:
    """All at once: when every new replica is ready, and somebody has said so if a preview was asked for."""
    wanted, target = draft.deployment.wanted, rollout.target
    if rollout.holding:
        _roll(draft, rollout, rollout.source, target, Keep.STOPPED)
    else:
        if rollout.source is not None:
            hold_at(draft, rollout.source, wanted)
        _start_all(draft, rollout)
    ready = len(draft.ready(target)) >= wanted
    if ready and (rollout.promoted or not _strategy(draft, rollout).preview):
        _switch(draft, rollout, "")
    else:
        _wait_for_promotion(draft, rollout, ready=ready)


def _wait_for_promotion(draft: Draft, rollout: Rollout, *, ready: bool) -> None:
    if ready and rollout.phase is RolloutPhase.STARTING:
        draft.advance(RolloutPhase.PREVIEW, "ready; it waits to be promoted")
    elif not ready and rollout.phase is RolloutPhase.PREVIEW:
        draft.advance(RolloutPhase.STARTING, "not all of its replicas are ready any more")
    share(draft, _carriers(draft, rollout), preview=rollout.target if ready else None)


def _switch(draft: Draft, rollout: Rollout, why: str) -> None:
    """All traffic to the target, in one change of the gateway's configuration."""
    draft.advance(RolloutPhase.SWITCHING, why)
    adjust(draft, rollout.target, draft.deployment.wanted)
    share(draft, [rollout.target])


def _finish(draft: Draft, rollout: Rollout) -> None:
    """Wait until the gateway has accepted the switch; back a step if the target is lost meanwhile."""
    source, target = rollout.source, rollout.target
    adjust(draft, target, draft.deployment.wanted)
    ready = draft.ready(target)
    if ready or not draft.deployment.wanted:
        routed = all(each.routed for each in ready)
        if routed and not any(each.routed for each in draft.all(source)):
            draft.advance(RolloutPhase.DONE, rollout.why)
        share(draft, [target])
    elif draft.ready(source) or draft.asleep(source):
        draft.advance(RolloutPhase.STARTING, f"revision {target} lost its replicas at the switch")
        share(draft, _carriers(draft, rollout))
    else:
        _heal_both(draft, rollout)


def _heal_both(draft: Draft, rollout: Rollout) -> None:
    """Nobody is left: whoever is ready first has the traffic, or is switched to."""
    sides = [each for each in (rollout.target, rollout.source) if each is not None]
    for side in sides:
        heal(draft, side)
    share(draft, sides)


# Back.


def _turn_back(draft: Draft, rollout: Rollout, why: str) -> None:
    draft.advance(RolloutPhase.ABORTING, why)
    _go_back(draft, rollout)


def _go_back(draft: Draft, rollout: Rollout) -> None:
    """The traffic returns to the source as its replicas get ready; everything of the target goes."""
    source, target = rollout.source, rollout.target
    if source is None:
        staying = 0
        for replica in draft.all(target):
            dismiss(draft, replica, f"the rollout to revision {target} failed")
    else:
        turn = _roll(draft, rollout, target, source, Keep.STOPPED)
        staying = turn.staying
        if turn.short and not turn.moving:
            _make_room(draft, rollout, source, 1)
    share(draft, [] if source is None else [source, target])
    if rollout.phase is RolloutPhase.ABORTING:
        gone = not staying and not any(each.routed for each in draft.all(target))
        _end_going_back(draft, rollout, gone=gone)


def _end_going_back(draft: Draft, rollout: Rollout, *, gone: bool) -> None:
    """Failed, once the source serves again and the target does not. When the source does not come back in time, it goes
    on being healed without a rollout; but a target that still serves keeps the traffic then."""
    source, wanted = rollout.source, draft.deployment.wanted
    restored = source is None or not wanted or bool(draft.ready(source))
    if restored and gone:
        draft.advance(RolloutPhase.FAILED, rollout.why)
    elif not _overdue(draft, rollout) or _comes_back(draft, source):
        draft.note(f"going back: {len(draft.ready(source))} of {wanted} replicas of revision {source} are ready")
    elif restored or not draft.ready(rollout.target):
        draft.advance(RolloutPhase.FAILED, f"{rollout.why}; revision {source} is not entirely back yet")
    else:
        draft.advance(RolloutPhase.DONE, f"revision {source} did not come back: revision {rollout.target} stays")


def _comes_back(draft: Draft, source: int | None) -> bool:
    """Whether it is only a matter of time until the source serves with as many as are wanted."""
    live = draft.live(source)
    healthy = bool(draft.ready(source)) and not any(healing.crash_loops(each) for each in live)
    return healthy and len(live) >= draft.deployment.wanted


# Both ways.


@dataclass(frozen=True)
class _Turn:
    """What one turn of the wheel came to: replicas of the old side that still have to stay, new ones that lack memory,
    and whether anything is on its way that will change that."""

    staying: int
    short: int
    moving: bool


def _roll(draft: Draft, rollout: Rollout, old: int | None, new: int, keep: Keep) -> _Turn:
    """One turn: as many of the new side as may be there, as many of the old side as are still needed."""
    wanted = draft.deployment.wanted
    bounds = _bounds(draft, rollout)
    needed = max(0, bounds.floor - len(draft.ready(new)))
    if bounds.floor == 0 and len(draft.live(new)) < wanted:
        candidates = draft.live(old)  # requests need a socket to wait at before the last old replica goes
        needed = len(candidates)
    else:
        candidates = _candidates(draft, rollout, old)
    staying, leaving = candidates[:needed], candidates[needed:]
    for replica in leaving:
        release(draft, replica, Keep.STOPPED if rollout.holding else keep, f"revision {new} takes over")
    short = adjust(draft, new, wanted, most=bounds.most - len(staying), holding=rollout.holding)
    if old == rollout.source:
        _keep_serving(draft, old, staying, needed)
    moving = draft.starts(new) or any(each.phase is not Phase.READY for each in draft.live(new))
    return _Turn(len(staying), short, moving)


def _candidates(draft: Draft, rollout: Rollout, old: int | None) -> list[Replica]:
    """Who may stay on the old side, the most useful first. Of a failed target only what is ready: the rest goes."""
    live = by_readiness(draft.live(old))
    if old != rollout.target:
        return live
    for replica in draft.all(old):
        if replica.phase is not Phase.READY:
            dismiss(draft, replica, f"the rollout to revision {old} failed")
    return [each for each in live if each.phase is Phase.READY]


def _keep_serving(draft: Draft, old: int | None, staying: list[Replica], needed: int) -> None:
    """The source is healed while it is needed, and what sleeps of it is woken when the target lost replicas."""
    if old is None:
        return
    heal(draft, old)
    ready = sum(each.phase is Phase.READY for each in staying)
    for replica in draft.asleep(old)[: max(0, needed - ready)]:
        wake(draft, replica, "the new revision lost replicas")


@dataclass(frozen=True)
class _Bounds:
    """`floor`: so many must be ready at any time; `most`: so many may be in service or on their way."""

    floor: int
    most: int


def _bounds(draft: Draft, rollout: Rollout) -> _Bounds:
    """What the strategy promises. A rollout that holds has to do with one replica fewer; with a single one, requests
    wait at its successor's socket, and blue-green swaps all of them like that."""
    strategy, wanted = _strategy(draft, rollout), draft.deployment.wanted
    if strategy.kind is StrategyKind.BLUE_GREEN:
        return _Bounds(0 if rollout.holding else wanted, 2 * wanted)
    fewer = max(1, strategy.max_unavailable) if rollout.holding else strategy.max_unavailable
    floor = min(wanted, max(0 if rollout.holding else 1, wanted - fewer))
    stuck = floor == wanted or rollout.holding
    return _Bounds(floor, wanted + (max(1, strategy.max_surge) if stuck else strategy.max_surge))


# When to turn back.


def _trouble(draft: Draft, rollout: Rollout) -> str:
    """Why the rollout should be given up; empty while it should not."""
    if rollout.aborted:
        return rollout.aborted
    for replica in draft.live(rollout.target):
        if healing.crash_loops(replica):
            return f"replica {replica.id} ended {replica.crashes} times in a row"
    if rollout.phase is RolloutPhase.STARTING and (lacking := _lacking_for_all(draft, rollout)):
        return lacking
    if rollout.phase is not RolloutPhase.PREVIEW and _overdue(draft, rollout):
        return f"it got no further for {_strategy(draft, rollout).progress_deadline_s:g} s"
    return ""


def _may_go_back(draft: Draft, rollout: Rollout) -> bool:
    """Whether the source serves, or would if it were asked to; or whether there is nothing to lose.

    A source that has replicas and none of them ready is ill itself: whoever has ready replicas keeps the traffic then.
    """
    source = rollout.source
    if not draft.ready(rollout.target) or source is None or not draft.live(source):
        return True
    if draft.ready(source) or draft.asleep(source):
        return True
    draft.note(f"no way back: revision {source} has no ready replica, revision {rollout.target} has")
    return False


def _overdue(draft: Draft, rollout: Rollout) -> bool:
    """Whether the progress deadline is over. A replica that got ahead without crashing is progress, and so are one that
    this very plan starts and, for a rollout that holds, draining the other side."""
    new, old = rollout.target, rollout.source
    if rollout.phase is RolloutPhase.ABORTING and old is not None:
        new, old = old, new
    times = [draft.now if draft.starts(new) else rollout.progress]
    for replica in draft.live(new):
        starts_now = replica.phase is Phase.CREATED and draft.memory.free >= draft.revision(replica).memory
        times += [draft.now if starts_now else replica.since] if not replica.crashes else []
    if rollout.holding:
        leaving = (each for each in draft.all(old) if each.phase is Phase.DRAINING)
        times += [each.since + draft.revision(each).drain_s for each in leaving]
    return draft.due(max(times) + _strategy(draft, rollout).progress_deadline_s)


# Memory.


def _start_all(draft: Draft, rollout: Rollout) -> None:
    """Bring up the whole target, or nothing of it when memory does not take all."""
    wanted, target = draft.deployment.wanted, rollout.target
    missing = wanted - len(draft.live(target)) - len(draft.asleep(target))
    if missing > 0 and not draft.memory.fits(missing * draft.deployment.revisions[target].memory):
        adjust(draft, target, wanted, most=0)
        _make_room(draft, rollout, target, missing)
    else:
        adjust(draft, target, wanted)


def _lacking_for_all(draft: Draft, rollout: Rollout) -> str:
    """Says so when the target could not run even if nothing else of its deployment did."""
    wanted, target = draft.deployment.wanted, rollout.target
    need = wanted * draft.deployment.revisions[target].memory
    most = draft.memory.most_for(draft.deployment)
    if need <= most or len(draft.live(target)) + len(draft.asleep(target)) >= wanted:
        return ""
    return (
        f"{wanted} replicas of revision {target} need {format_bytes(need)} of memory, there are {format_bytes(most)}; "
        "lower resources.memory or replicas, or stop other deployments"
    )


def _make_room(draft: Draft, rollout: Rollout, new: int, replicas: int) -> None:
    """Memory for more replicas of one side: what is leaving, what is kept, else the other side itself makes room."""
    need = replicas * draft.deployment.revisions[new].memory
    missing = draft.memory.missing(need)
    forward = new == rollout.target
    if reclaim(draft, missing) or (forward and reclaim_spare(draft, rollout.source, missing)):
        draft.note(f"revision {new} waits for {format_bytes(need)} of memory: {draft.memory.figures()}")
    elif draft.live(rollout.source if forward else rollout.target) and _may_hold(_strategy(draft, rollout)):
        why = f"memory does not fit both revisions, {draft.memory.figures()}: one stops before the other starts"
        draft.advance(rollout.phase, why, holding=True)
    elif forward and _may_go_back(draft, rollout):
        draft.advance(RolloutPhase.ABORTING, _no_room(draft, rollout, need))
    else:
        draft.note(f"revision {new} lacks {format_bytes(need)} of memory: {draft.memory.figures()}")


def _may_hold(strategy: Strategy) -> bool:
    """A preview needs both revisions at once, so there is nothing to swap."""
    previews = strategy.kind is StrategyKind.BLUE_GREEN and strategy.preview
    return strategy.hold_and_swap == "auto" and not previews


def _no_room(draft: Draft, rollout: Rollout, need: int) -> str:
    return (
        f"revision {rollout.target} needs {format_bytes(need)} of memory beside what runs, {draft.memory.figures()}; "
        "lower resources.memory, free some, or let the strategy hold and swap"
    )


# Who has the traffic.


def _carriers(draft: Draft, rollout: Rollout) -> list[int]:
    """Whose ready replicas share the traffic before the switch; when none is ready, requests wait in this order."""
    source, target = rollout.source, rollout.target
    blue_green = _strategy(draft, rollout).kind is StrategyKind.BLUE_GREEN
    if source is None:
        return [] if blue_green else [target]
    return [source] if blue_green and not rollout.holding else [source, target]


def _strategy(draft: Draft, rollout: Rollout) -> Strategy:
    return draft.deployment.revisions[rollout.target].strategy
