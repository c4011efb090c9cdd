"""When a crashed replica is started again, and when its revision counts as broken: constants and arithmetic.

`scaling` asks when to start, `rollout` whether to go on.
"""

from __future__ import annotations

from dockyard.spec.deployment import Probes
from dockyard.yard.state import Phase, Replica

MOST_PAUSE_S = 60.0
CRASHES_TO_FAIL = 3
"""A rollout is given up when one replica of its target ended so often in a row."""
LOST_START_S = 10.0
"""A start that is so much over its deadline is nobody's any more: whoever waited for it is gone."""


def restart_at(replica: Replica) -> float:
    """When to start it again: at once after the first crash, then after 1, 2, 4 ... at most 60 seconds."""
    if replica.crashes <= 1:
        return replica.since
    return replica.since + min(MOST_PAUSE_S, 2.0 ** min(replica.crashes - 2, 10))


def start_lost_at(replica: Replica, probes: Probes) -> float:
    """When a start that nobody has ended counts as a crash."""
    return replica.since + probes.start_deadline_s + LOST_START_S


def crash_loops(replica: Replica) -> bool:
    """Whether it ends again and again, so that a revision which was never proven is given up."""
    return replica.phase is not Phase.READY and replica.crashes >= CRASHES_TO_FAIL
