"""How many refusals a second a model can bear: as many as come, unless its batches take longer for them.

Whoever computes on the core of the event loop, or needs Python's lock, loses what a flood of refusals takes. A model
that waits for a device loses nothing. So nobody has to say what a model is: it is measured, what its batches take while
others are turned away, against what they took before. The batcher tells, `Flood` obeys. No I/O here, and no clock.
"""

from __future__ import annotations

import math

LEAST, MOST = 2_000.0, 50_000.0  # refusals a second; with more than the most, nobody is held back
SLOWED, FREE = 1.08, 1.04  # times what batches took before
_FEWER, _MORE = 0.75, 1.06
_WEIGHT = 0.1
_SLOWLY = 0.03  # with which it is learned, under a flood, that it is not the flood


class Bearing:
    """What one model bears."""

    def __init__(self) -> None:
        self.rate = math.inf
        self._slowness = 1.0
        self._usual: dict[int, float] = {}  # seconds of batches, by the size of their number of rows
        self._waits: dict[int, float] = {}  # of those, the ones in which the model did not compute

    def ran(self, seconds: float, busy: float, rows: int, *, flooded: bool) -> None:
        """A batch took so many seconds, and computed in so many of them.

        `flooded`: others were refused meanwhile.
        """
        size = rows.bit_length()
        if not flooded:
            self._usual[size] = _towards(self._usual.get(size, seconds), seconds, _WEIGHT)
            self._waits[size] = _towards(self._waits.get(size, seconds - busy), seconds - busy, _WEIGHT)
        wait = self._waits.get(size, 0.0)
        expected = max(busy + wait, self._usual.get(size, 0.0))
        slowness = seconds / expected if flooded and expected else 1.0
        self._slowness = _towards(self._slowness, slowness, 2 * _WEIGHT)
        if self._slowness < FREE:
            self.rate *= _MORE
            if self.rate > MOST:
                self.rate = math.inf
        elif self.rate <= LEAST:
            self._waits[size] = _towards(wait, seconds - busy, _SLOWLY)
        elif self._slowness > SLOWED:
            self.rate = max(min(self.rate, MOST) * _FEWER, LEAST)


def _towards(value: float, other: float, weight: float) -> float:
    return value + weight * (other - value)
