"""When the host of a virtual machine gave its processors to others: steal time. Used by `bystanders`.

A virtual machine does not see who else runs on its host, but is told how long its processors were ready to run and did
not. On a shared host that may be nothing for most of the time, and a third of it for some seconds. The figure is in
hundredths of a second and adds up what is shorter, so a moment of some milliseconds may show later or not at all.
Source: Linux, filesystems/proc.rst, /proc/stat.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.deploy.windows import Span

EVERY_S = 0.02
_STAT = Path("/proc/stat")
_STEAL = 8
"""The place of steal time in the line of all processors together."""
_TICKS = os.sysconf("SC_CLK_TCK")
"""Its unit, in a second."""

Sample = tuple[float, float]
"""Seconds since 1970, and seconds that were stolen since the machine began, of all its processors together."""


@dataclass(frozen=True)
class Steal:
    """What was seen so far."""

    samples: list[Sample] = field(default_factory=list)

    def spans(self) -> list[Span]:
        """When time was stolen."""
        return list(stolen(tuple(self.samples)))


@contextmanager
def watching() -> Iterator[Steal]:
    """Look for as long as the block takes, every `EVERY_S`; a look takes some microseconds."""
    steal, ended = Steal(), threading.Event()

    def look() -> None:
        while not ended.wait(EVERY_S):
            steal.samples.append((time.time(), stolen_s()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield steal
    finally:
        ended.set()
        thread.join()


def stolen_s() -> float:
    """Seconds that were stolen since the machine began, of all its processors together."""
    return int(_STAT.read_text().split(maxsplit=_STEAL + 1)[_STEAL]) / _TICKS


def stolen(samples: Sequence[Sample]) -> Iterator[Span]:
    """When time was stolen, by what the samples say: it may have begun before a sample, and what waited is caught up
    with after it; both as long as what was stolen.
    """
    for (before, less), (now, more) in pairwise(samples):
        if more > less:
            yield before - (more - less), now + (more - less)
