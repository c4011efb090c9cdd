"""The bounded queue: who may come in, and who has waited too long.

Every request for a model is admitted here and released when it is answered, so the number of requests in flight has a
limit and each has a deadline. served.py asks; nothing here does I/O, and the clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence

from berth.work import Work


class Admission:
    """Requests in flight, oldest first."""

    def __init__(self, limit: int, timeout: float) -> None:
        self.limit = limit
        self._timeout = timeout
        self._inside: dict[Work, None] = {}

    def admit(self, work: Work, now: float) -> bool:
        """Let a work in and stamp its deadline; False when the queue is full."""
        if len(self._inside) >= self.limit:
            return False
        timeout = work.timeout
        work.deadline = now + (self._timeout if timeout is None or timeout > self._timeout else timeout)
        self._inside[work] = None
        return True

    def release(self, work: Work) -> None:
        """A work has its answer."""
        work.done = True
        self._inside.pop(work, None)

    def release_all(self, works: Sequence[Work]) -> None:
        """All of a batch have their answers."""
        take = self._inside.pop
        for work in works:
            work.done = True
            take(work, None)

    def expired(self, now: float) -> list[Work]:
        """Works past their deadline; the caller answers and so releases them."""
        return [work for work in self._inside if work.deadline <= now]

    def earliest_deadline(self) -> float:
        """When the next work expires; infinity when there is none."""
        return min((work.deadline for work in self._inside), default=float("inf"))

    def __len__(self) -> int:
        return len(self._inside)
