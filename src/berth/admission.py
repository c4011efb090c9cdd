"""The bounded queue: who may come in, and who has waited too long.

Every request for the model is admitted here and released when it is answered, so the number of requests in flight has a
limit and each has a deadline. The application asks; nothing here does I/O, and the clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator

from berth.work import Work


class Admission:
    """Requests in flight, oldest first."""

    def __init__(self, limit: int, timeout: float) -> None:
        self._limit = limit
        self._timeout = timeout
        self._inside: dict[Work, None] = {}

    def admit(self, work: Work, now: float) -> bool:
        """Let a work in and stamp its deadline; False when the queue is full."""
        if len(self._inside) >= self._limit:
            return False
        timeout = self._timeout if work.timeout is None else min(work.timeout, self._timeout)
        work.deadline = now + timeout
        self._inside[work] = None
        return True

    def release(self, work: Work) -> None:
        """A work has its answer."""
        work.done = True
        self._inside.pop(work, None)

    def expired(self, now: float) -> Iterator[Work]:
        """Works past their deadline; the caller answers and so releases them."""
        return iter([work for work in self._inside if work.deadline <= now])

    def earliest_deadline(self) -> float | None:
        """When the next work expires; None when there is none."""
        return min((work.deadline for work in self._inside), default=None)

    def __len__(self) -> int:
        return len(self._inside)
