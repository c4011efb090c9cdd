"""Notices that files of a project have changed: by looking, which works on every file system and takes no watches.

A look costs a `stat` for each file; the pause between two is at least twenty times what one took, so that a project of
any size costs no more than a twentieth of a core. loop.py asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

PAUSE_S = 0.25
_SHARE = 20

Look = Callable[[], Iterable[Path]]
State = Mapping[Path, tuple[int, int, int, int, int]]


def state_of(files: Iterable[Path]) -> State:
    """Size, times, number and permissions of every file that is there."""
    state = {}
    for path in files:
        try:
            found = path.stat()
        except OSError:
            continue
        state[path] = (found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns, found.st_mode)
    return state


def changes(before: State, after: State) -> list[Path]:
    """The files that came, went or changed."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


async def wait_for_change(look: Look, before: State) -> list[Path]:
    """Wait until files differ from `before` and keep still, and say which; a look that fails is tried again."""
    last = before
    while True:
        started = time.monotonic()
        try:
            now = await asyncio.to_thread(lambda: state_of(look()))
        except OSError:  # a folder went while it was being read
            now = last
        if now == last and (found := changes(before, now)):
            return found
        last = now
        await asyncio.sleep(max(PAUSE_S, _SHARE * (time.monotonic() - started)))
