"""The bounded queue: who may come in, and who has waited too long.

Every request for a model is admitted here and released when it is answered, so requests in flight are limited in number
and bytes and each has a deadline. Whoever could not be answered before its deadline is refused at once, while the
caller can still go elsewhere. served.py asks; nothing here does I/O, and the clock is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from berth.protocols.base import Refusal
from berth.work import Work

_LONGEST_RETRY_S = 60
_TOLD_S = 0.01  # how long a refusal is used again


class Admission:
    """Requests in flight, oldest first."""

    def __init__(self, limit: int, limit_bytes: int, timeout: float) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._timeout = timeout
        self._inside: dict[Work, None] = {}
        self._bytes = 0
        self._told: Refusal | None = None
        self._told_about: tuple[bool, float] | None = None
        self._told_until = 0.0

    def admit(self, work: Work, now: float, wait: float) -> None:
        """Let a work in and stamp its deadline; Refusal (503) when there is no room or no time for it.

        `wait` is how long (seconds) the queue is expected to take until it is this work's turn.
        """
        refusal = self.turned_away(work.timeout, wait, now)
        if refusal is not None:
            raise refusal
        size = work.size
        if self._bytes + size > self._limit_bytes and self._inside:
            raise _refusal(f"the queue is full ({self._bytes} bytes, BERTH_MAX_QUEUE_BYTES)", wait)
        work.deadline = now + self._patience(work.timeout)
        self._inside[work] = None
        self._bytes += size

    def turned_away(self, timeout: float | None, wait: float, now: float) -> Refusal | None:
        """Why nobody is let in who would wait so many seconds at most; None when there is room and time.

        Everybody in a flood is told the same for a moment, so the refusal is only made once.
        """
        full, patience = len(self._inside) >= self._limit, self._patience(timeout)
        if not full and wait <= patience:
            return None
        about = (full, patience)
        if about != self._told_about or now > self._told_until:
            self._told_about, self._told_until = about, now + _TOLD_S
            self._told = self._full(wait) if full else _too_long(wait, patience)
        assert self._told is not None
        self._told.stands = True
        return self._told

    def _full(self, wait: float) -> Refusal:
        return _refusal(f"the queue is full ({len(self._inside)} requests, BERTH_MAX_QUEUE)", wait)

    def _patience(self, timeout: float | None) -> float:
        """How long (seconds) a caller waits, who may have said so."""
        return self._timeout if timeout is None or timeout > self._timeout else timeout

    def release(self, work: Work) -> None:
        """A work has its answer."""
        self._make_room()
        work.done = True
        if work in self._inside:
            del self._inside[work]
            self._bytes -= work.size

    def release_all(self, works: Sequence[Work]) -> None:
        """All of a batch have their answers."""
        self._make_room()
        inside = self._inside
        for work in works:
            work.done = True
            if work in inside:
                del inside[work]
                self._bytes -= work.size

    def _make_room(self) -> None:
        if self._told is not None:
            self._told.stands = False

    def expired(self, now: float) -> list[Work]:
        """Works past their deadline; the caller answers and so releases them."""
        return [work for work in self._inside if work.deadline <= now]

    def earliest_deadline(self) -> float:
        """When the next work expires; infinity when there is none."""
        return min((work.deadline for work in self._inside), default=float("inf"))

    def __len__(self) -> int:
        return len(self._inside)


def _too_long(wait: float, patience: float) -> Refusal:
    return _refusal(f"the queue takes about {wait:.3g} s, and the deadline is in {patience:.3g} s", wait - patience)


def _refusal(why: str, wait: float) -> Refusal:
    seconds = min(max(math.ceil(wait), 1), _LONGEST_RETRY_S)
    return Refusal(503, f"{why}; try again in {seconds} s", ((b"Retry-After", b"%d" % seconds),))
