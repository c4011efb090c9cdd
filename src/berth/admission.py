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


class Admission:
    """Requests in flight, oldest first."""

    def __init__(self, limit: int, limit_bytes: int, timeout: float) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._timeout = timeout
        self._inside: dict[Work, None] = {}
        self._bytes = 0

    def admit(self, work: Work, now: float, wait: float) -> None:
        """Let a work in and stamp its deadline; Refusal (503) when there is no room or no time for it.

        `wait` is how long (seconds) the queue is expected to take until it is this work's turn.
        """
        timeout = work.timeout
        if timeout is None or timeout > self._timeout:
            timeout = self._timeout
        size = work.size
        if len(self._inside) >= self._limit:
            raise _refusal(f"the queue is full ({len(self._inside)} requests, BERTH_MAX_QUEUE)", wait)
        if self._bytes + size > self._limit_bytes and self._inside:
            raise _refusal(f"the queue is full ({self._bytes} bytes, BERTH_MAX_QUEUE_BYTES)", wait)
        if wait > timeout:
            raise _refusal(
                f"the queue takes about {wait:.3g} s, and the deadline is in {timeout:.3g} s", wait - timeout
            )
        work.deadline = now + timeout
        self._inside[work] = None
        self._bytes += size

    def release(self, work: Work) -> None:
        """A work has its answer."""
        work.done = True
        if work in self._inside:
            del self._inside[work]
            self._bytes -= work.size

    def release_all(self, works: Sequence[Work]) -> None:
        """All of a batch have their answers."""
        inside = self._inside
        for work in works:
            work.done = True
            if work in inside:
                del inside[work]
                self._bytes -= work.size

    def expired(self, now: float) -> list[Work]:
        """Works past their deadline; the caller answers and so releases them."""
        return [work for work in self._inside if work.deadline <= now]

    def earliest_deadline(self) -> float:
        """When the next work expires; infinity when there is none."""
        return min((work.deadline for work in self._inside), default=float("inf"))

    def __len__(self) -> int:
        return len(self._inside)


def _refusal(why: str, wait: float) -> Refusal:
    seconds = min(max(math.ceil(wait), 1), _LONGEST_RETRY_S)
    return Refusal(503, f"{why}; try again in {seconds} s", ((b"Retry-After", b"%d" % seconds),))
