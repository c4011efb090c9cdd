"""The yard's clock: wall time that never jumps.

People correct clocks, and machines start with wrong ones. Within a process this one follows the monotonic clock from
where the wall clock was at its start, and it never starts before the newest time in the store. So deadlines and
durations hold, and what happened later never seems to be earlier. `Store.open` makes it; the planner is given its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since 1970, UTC."""


def steady_clock(newest: float, wall: Clock = time.time, monotonic: Clock = time.monotonic) -> Clock:
    """A clock that begins at the wall's time, or at `newest` if that is later, and then runs evenly."""
    begin, offset = max(wall(), newest), monotonic()
    return lambda: begin + monotonic() - offset
