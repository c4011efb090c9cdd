"""Where a deployment's requests go: only to replicas that are ready, with two exceptions.

A replica's socket is the yard's: it listens before the container runs, and while it is started again. So when no
replica that could carry the traffic is ready, requests wait there instead of failing. That holds for

1. a revision that has the traffic, whose replicas have all crashed: those that are being started again stay endpoints;
2. a rollout that holds, because memory does not fit old and new: the new replica is an endpoint before it is started,
   while the old one drains.

Nobody else gets traffic before it is proven: a first revision's replicas do not, and a new revision's do not while the
old one serves. `plan` and `rollout` call `share` last, when it is decided who leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dockyard.yard.draft import Draft
from dockyard.yard.state import Phase, Replica, Traffic

_COUNTED = frozenset({Phase.READY, Phase.DRAINING, Phase.FREEZING})


def share(draft: Draft, carriers: Sequence[int], *, preview: int | None = None) -> None:
    """Divide the traffic among `carriers` by their ready replicas; if there is none, requests wait at the first of them
    that has a socket to wait at."""
    ready = {each: found for each in carriers if (found := _ids(draft.ready(each)))}
    endpoints = ready or _waiting(draft, carriers)
    weights = _percent({each: len(found) for each, found in endpoints.items()})
    if not endpoints and carriers:
        weights, endpoints = {carriers[0]: 100}, {carriers[0]: ()}
    if preview is not None:
        weights, endpoints = weights | {preview: 0}, endpoints | {preview: _ids(draft.ready(preview))}
    draft.traffic = Traffic(weights, endpoints, preview, _draining(draft, endpoints))


def _waiting(draft: Draft, carriers: Sequence[int]) -> dict[int, tuple[str, ...]]:
    for revision in carriers:
        waiting = [each for each in draft.live(revision) if each.id not in draft.out and _may_wait(draft, each)]
        if waiting:
            return {revision: _ids(waiting)}
    return {}


def _may_wait(draft: Draft, replica: Replica) -> bool:
    """The two exceptions. A replica that is routed was ready before: it lost its container while it had traffic."""
    rollout = draft.rollout
    serving = replica.revision == draft.deployment.active or replica.routed
    return serving or (rollout is not None and rollout.holding and replica.revision == rollout.target)


def _percent(counts: Mapping[int, int]) -> dict[int, int]:
    """Shares that add up to 100 and leave nobody without: at most two revisions share."""
    if len(counts) < 2:
        return dict.fromkeys(counts, 100)
    first, second = counts
    part = min(99, max(1, round(100 * counts[first] / (counts[first] + counts[second]))))
    return {first: part, second: 100 - part}


def _draining(draft: Draft, endpoints: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
    """Whoever could have a request in flight and is no endpoint: as long as the gateway knows a replica, it counts
    them and lets them finish. What is ready and waits for its turn, or for a way back, is known to it in advance."""
    draining: dict[int, list[str]] = {}
    for replica in draft.deployment.replicas:
        if (replica.phase in _COUNTED or replica.routed) and replica.id not in endpoints.get(replica.revision, ()):
            draining.setdefault(replica.revision, []).append(replica.id)
    return {revision: tuple(found) for revision, found in draining.items()}


def _ids(replicas: Sequence[Replica]) -> tuple[str, ...]:
    return tuple(each.id for each in replicas)
