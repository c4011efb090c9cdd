"""Gives back the memory that loading a model needed and serving it does not. `server` calls it once, before ready.

Loading leaves two things behind: freed heap that the C library keeps, and program text that ran once (a runtime's graph
optimiser, its registries) and stays mapped. The first is trimmed; the second is unmapped page by page, and comes back
from the page cache, by itself, where it is used again. A small network's server is a third smaller after it.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

_MAPS = Path("/proc/self/maps")
# Program text of a file: executable and never writable, so no page of it differs from the file.
_TEXT = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ [1-9]\d* +/", re.MULTILINE)
_MADV_DONTNEED = 4  # the same number on every architecture of Linux


def release() -> None:
    """Trim the heap and let go of program text. Does nothing where the system does not offer it."""
    library = ctypes.CDLL(None)
    if trim := _function(library, "malloc_trim", ctypes.c_size_t):
        trim(0)
    if advise := _function(library, "madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int):
        for start, end in _text():
            advise(start, end - start, _MADV_DONTNEED)


def _function(library: ctypes.CDLL, name: str, *arguments: type) -> Callable[..., int] | None:
    try:
        function = getattr(library, name)
    except AttributeError:
        return None
    function.argtypes = arguments
    found: Callable[..., int] = function
    return found


def _text() -> list[tuple[int, int]]:
    try:
        maps = _MAPS.read_text()
    except OSError:
        return []
    return [(int(start, 16), int(end, 16)) for start, end in _TEXT.findall(maps)]
