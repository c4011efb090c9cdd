"""Reading a runc container's log: `log.1` (older) and `log`, its last lines, and following it while it grows.

`runc.engine` calls it. The monitor empties `log` when it gets large; a follower notices that the file became shorter
and goes on from its new beginning.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from dockyard.engines.lines import Lines

PIECE = 1 << 16
FOLLOW_INTERVAL = 0.1


async def read_log(folder: Path, tail: int | None, *, follow: bool, alive: Callable[[], bool]) -> AsyncIterator[str]:
    """The lines kept in `folder`, or the last `tail`; then, when following, new ones until `alive` says no."""
    lines = Lines()
    kept: deque[str] = deque(maxlen=tail)
    position = 0
    for path in (folder / "log.1", folder / "log"):
        for data in _pieces(path, 0):
            kept.extend(lines.feed(data))
            position = position + len(data) if path.name == "log" else 0
    if not follow:
        kept.extend(lines.end())
    for line in kept:
        yield line
    if follow:
        async for line in _follow(folder / "log", position, lines, alive):
            yield line


async def _follow(path: Path, position: int, lines: Lines, alive: Callable[[], bool]) -> AsyncIterator[str]:
    last_round = False
    while True:
        if _size(path) < position:
            position = 0
        for data in _pieces(path, position):
            position += len(data)
            for line in lines.feed(data):
                yield line
        if last_round:
            break
        last_round = not alive()
        if not last_round:
            await asyncio.sleep(FOLLOW_INTERVAL)
    for line in lines.end():
        yield line


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _pieces(path: Path, position: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(position)
            while data := file.read(PIECE):
                yield data
    except FileNotFoundError:
        return
