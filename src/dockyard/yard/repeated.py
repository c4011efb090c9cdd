"""Telling the same thing not too often: a flood of equal refusals must not fill the audit log. Used by `governing`."""

from __future__ import annotations

from collections import OrderedDict

EVERY_S = 60.0
KNOWN = 1000
"""So many different things are remembered; more of them at once are each told when they come."""


class Repeated:
    """Counts what was told already."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()

    def count(self, what: tuple[str, ...], now: float) -> int | None:
        """None: it was told less than a minute ago. Else how often it came since then; it counts as told now."""
        told, unheard = self._seen.pop(what, (None, 0))
        if told is not None and now - told < EVERY_S:
            self._seen[what] = (told, unheard + 1)
            return None
        self._seen[what] = (now, 0)
        while len(self._seen) > KNOWN:
            self._seen.popitem(last=False)
        return unheard
