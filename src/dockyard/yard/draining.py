"""How a replica goes, so that no request notices: out of the traffic, drained, stopped.

    dismiss            it is no endpoint of this plan, and takes no new requests
    -> drained         the gateway has accepted a configuration without it; its requests are answered
    -> stop            SIGTERM, and nothing of it is left

`scaling`, `keeping`, `rollout` and `plan` call `dismiss` as often as they like: it does the next of these things.
"""

from __future__ import annotations

from dockyard.yard.draft import Draft
from dockyard.yard.state import Phase, Replica

_RUNS_AWAKE = frozenset({Phase.STARTING, Phase.READY, Phase.FREEZING})
_RUNS_NOT = frozenset({Phase.CREATED, Phase.CRASHED, Phase.STOPPED})


def dismiss(draft: Draft, replica: Replica, why: str) -> None:
    """The next thing to do with a replica that shall go."""
    draft.send_away(replica)
    if replica.phase in _RUNS_AWAKE:
        draft.move(replica, Phase.DRAINING, why)
    elif drained(draft, replica):
        draft.stop(replica, why)


def drained(draft: Draft, replica: Replica) -> bool:
    """Whether stopping it loses nothing that could be kept.

    Requests at a replica without a process have nobody to answer them: waiting would only make them wait.
    """
    if replica.routed:
        return False
    if replica.in_flight == 0 or replica.phase in _RUNS_NOT:
        return True
    return draft.due(replica.since + draft.revision(replica).drain_s)


def finish_leaving(draft: Draft) -> None:
    """Go on with every replica that is on its way out, whatever sent it there."""
    for replica in draft.deployment.replicas:
        if replica.phase in (Phase.DRAINING, Phase.STOPPED):
            dismiss(draft, replica, "drained")
