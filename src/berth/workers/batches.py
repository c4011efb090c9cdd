"""The bookkeeping of work on its way through workers: what is still owed, and what is tried again.

A `Submission` is a batch as the batcher gave it; a `Piece` is what one worker runs of it at once: at first all, after a
worker ended under it each request alone. A `Stream` is one call of a predict that yields. pool.py moves pieces and
streams between workers.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from berth.calls import Traced, Until
from berth.executor import Done, Failed, FailureKind, Finished, Group, Outcome, Sink, new_error_id

Wanted = Callable[[int], bool]


class Submission:
    """One batch and the outcomes that it has so far; `done` is called when it has all."""

    def __init__(self, groups: Sequence[Group], done: Done, wanted: Wanted | None) -> None:
        self.groups = groups
        self._outcomes: list[Outcome | None] = [None] * len(groups)
        self._missing = len(groups)
        self._done = done
        self._wanted = wanted
        self._seconds = 0.0
        self._busy = 0.0
        self._runs = 0

    @property
    def deadline(self) -> float:
        """Until when somebody waits for it, on the performance counter."""
        return self._wanted.deadline if isinstance(self._wanted, Until) else float("inf")

    @property
    def all_wanted(self) -> bool:
        """Whether nobody can tell that something is not wanted."""
        return self._wanted is None

    def wanted(self, index: int) -> bool:
        """Whether somebody still waits for this group."""
        return self._wanted is None or self._wanted(index)

    def traces(self) -> list[dict[str, str]]:
        """The headers that continue the trace of each call."""
        return self._wanted.traces() if isinstance(self._wanted, Traced) else []

    def took(self, seconds: float, busy: float, runs: int) -> None:
        """Count what a worker spent on it."""
        self._seconds += seconds
        self._busy += busy
        self._runs += runs

    def settle(self, indices: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        """These groups have their outcomes."""
        if len(indices) == len(self.groups):  # all at once, the usual case
            self._missing = 0
            self._done(Finished(list(outcomes), self._seconds, self._busy, self._runs))
            return
        for index, outcome in zip(indices, outcomes, strict=True):
            assert self._outcomes[index] is None
            self._outcomes[index] = outcome
        self._missing -= len(indices)
        if not self._missing:
            outcomes = [outcome for outcome in self._outcomes if outcome is not None]
            self._done(Finished(outcomes, self._seconds, self._busy, self._runs))


class Piece(msgspec.Struct, frozen=True, eq=False):
    """Groups of a submission that one worker runs together; `ended` workers ended while they ran (then it is one)."""

    submission: Submission
    indices: tuple[int, ...]
    ended: int = 0

    @property
    def groups(self) -> list[Group]:
        """What there is to run."""
        if len(self.indices) == len(self.submission.groups):
            return list(self.submission.groups)
        return [self.submission.groups[index] for index in self.indices]

    @property
    def deadline(self) -> float:
        """Until when somebody waits for it."""
        return self.submission.deadline

    def traces(self) -> list[dict[str, str]]:
        """The headers that continue the trace of each of its calls; empty when none is traced."""
        everything = self.submission.traces()
        if not any(everything):
            return []
        calls = iter(everything)
        groups = [list(itertools.islice(calls, len(group))) for group in self.submission.groups]
        return [headers for index in self.indices for headers in groups[index]]

    def alone(self, ended: int) -> Iterator[Piece]:
        """Each group by itself."""
        for index in self.indices:
            yield Piece(self.submission, (index,), ended)

    def still_wanted(self) -> Piece | None:
        """Without the groups that nobody waits for any more, which are settled; None when none is left."""
        if self.submission.all_wanted:
            return self
        gone = [index for index in self.indices if not self.submission.wanted(index)]
        if not gone:
            return self
        unwanted = [failure("nobody waited for it any more")] * len(gone)
        asyncio.get_running_loop().call_soon(self.submission.settle, gone, unwanted)
        left = tuple(index for index in self.indices if index not in set(gone))
        return Piece(self.submission, left, self.ended) if left else None

    def fail(self, failed: Failed) -> None:
        """None of them is answered."""
        self.submission.settle(self.indices, [failed] * len(self.indices))


class Stream(msgspec.Struct, frozen=True, eq=False):
    """One call whose items go to a sink as they come; `ended` workers ended while they ran it."""

    call: Any
    sink: Sink
    ended: int = 0

    @property
    def groups(self) -> list[Group]:
        """What there is to run."""
        return [[self.call]]

    @property
    def deadline(self) -> float:
        """Until when somebody waits for the next item."""
        return self.sink.deadline if isinstance(self.sink, Until) else float("inf")

    def traces(self) -> list[dict[str, str]]:
        """The headers that continue the trace of its call."""
        return self.sink.traces() if isinstance(self.sink, Traced) else []

    def alone(self, ended: int) -> Iterator[Stream]:
        """Itself, after one more worker."""
        yield Stream(self.call, self.sink, ended)

    def still_wanted(self) -> Stream | None:
        """Itself: its sink says with the first item whether anybody listens."""
        return self

    def fail(self, failed: Failed) -> None:
        """There are no more items."""
        self.sink.close(failed)


def failure(text: str, trace: str = "") -> Failed:
    """A failure that is the model's, or ours; never the caller's."""
    return Failed(FailureKind.MODEL, text, new_error_id(), trace or text)
