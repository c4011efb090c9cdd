"""Gives back the memory that loading a model needed and serving it does not. `server` calls it before it is ready.

Loading leaves two things behind: freed heap that the C library keeps, and pages of program files (a runtime's graph
optimiser, its registries) that were read once and stay mapped. The heap is trimmed. The pages are let go; those that
serving uses come back from the page cache by themselves, a few milliseconds in all, spread over the first requests. A
small network's server is two fifths smaller after it. The first requests bring more back than the next ones need (what
a model sets up on first use, whole blocks of files around a page): at the first quiet moment it is done once more.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from pathlib import Path

_SMAPS = Path("/proc/self/smaps")
# A mapping of a file that nobody may write, and what the kernel says of it.
_READ_ONLY = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ [1-9]\d* +/.*\n((?:[A-Z].*\n)+)", re.MULTILINE)
# No page of it differs from the file (relocated data does, and is read-only by now): all of it can be read again.
_UNCHANGED = re.compile(r"^Anonymous: +0 kB$", re.MULTILINE)
_MADV_DONTNEED = 4  # the same number on every architecture of Linux


def release() -> None:
    """Trim the heap and let go of unchanged pages of files. Does nothing where the system does not offer it."""
    library = ctypes.CDLL(None)
    if trim := _function(library, "malloc_trim", ctypes.c_size_t):
        trim(0)
    if advise := _function(library, "madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int):
        for start, end in _unchanged():
            advise(start, end - start, _MADV_DONTNEED)


class Settling:
    """Watches for the first quiet moment after the first requests, and releases memory then, once."""

    def __init__(self) -> None:
        self._before = 0
        self._settled = False

    def look(self, answered: int, in_flight: int) -> None:
        """Called about twice a second with the requests answered so far."""
        if self._settled:
            return
        if answered and answered == self._before and not in_flight:
            self._settled = True
            release()
        self._before = answered


def _function(library: ctypes.CDLL, name: str, *arguments: type) -> Callable[..., int] | None:
    try:
        function = getattr(library, name)
    except AttributeError:
        return None
    function.argtypes = arguments
    found: Callable[..., int] = function
    return found


def _unchanged() -> Iterator[tuple[int, int]]:
    """First and last address of each read-only mapping of a file that has no page of its own."""
    try:
        maps = _SMAPS.read_text()
    except OSError:
        return
    for start, end, facts in _READ_ONLY.findall(maps):
        if _UNCHANGED.search(facts):
            yield int(start, 16), int(end, 16)
