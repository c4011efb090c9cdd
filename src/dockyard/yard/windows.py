"""The last minute in buckets of one second: what the autoscaler averages over its stable and its panic window.

Kept in memory, one ring for each signal. `series` fills them; a restarted yard begins with empty ones, and an empty
window says that nothing is known, which is not zero.
"""

from __future__ import annotations

import math

SECONDS = 60


class Ring:
    """Values of the last `SECONDS` whole seconds, of one clock that never jumps back."""

    __slots__ = ("_seconds", "_values")

    def __init__(self) -> None:
        self._values = [0.0] * SECONDS
        self._seconds = [-1] * SECONDS  # which second each value is of

    def add(self, moment: float, seconds: float, value: float) -> None:
        """`value` held on average during the `seconds` that end at `moment`."""
        end = math.floor(moment)
        for second in range(max(math.floor(moment - seconds), end - SECONDS), end):
            self._values[second % SECONDS] = value
            self._seconds[second % SECONDS] = second

    def average(self, moment: float, window: int) -> float | None:
        """Over the last `window` whole seconds before `moment` of which something is known; None when of none."""
        end = math.floor(moment)
        seen = [
            self._values[second % SECONDS]
            for second in range(end - min(window, SECONDS), end)
            if self._seconds[second % SECONDS] == second
        ]
        return sum(seen) / len(seen) if seen else None
