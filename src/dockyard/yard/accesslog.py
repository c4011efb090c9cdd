"""The gateway's access log, read from its end: JSON lines, the youngest in the file, older ones in those beside it.

The gateway writes and rotates it; here is only how it is read, as plain functions over its path. `telling` calls `tail`
and `follow` for `dockyard logs --access`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

MOST_READ = 64 << 20
MOST_LINES = 10_000
LOOK_S = 0.2
_MOST_NEW = 1 << 20
_BLOCK = 1 << 16
_LINE = 1 << 16


@dataclass(frozen=True)
class Filter:
    """Which lines are wanted. `status` is a whole one (`404`) or a class (`5xx`); empty and None mean any."""

    deployment: str = ""
    revision: int | None = None
    status: str = ""

    def takes(self, line: dict[str, Any]) -> bool:
        """Whether a line is wanted."""
        status = str(line.get("status", ""))
        return (
            self.deployment in {"", line.get("deployment")}
            and (self.revision is None or str(line.get("revision")) == str(self.revision))
            and (self.status in {"", status} or (self.status[1:] == "xx" and status[:1] == self.status[:1]))
        )


@dataclass(frozen=True)
class Place:
    """A place in the log: a file, by its number on the disk, and how many bytes of it."""

    inode: int
    size: int


def tail(path: Path, count: int, wanted: Filter | None = None, until: Place | None = None) -> list[dict[str, Any]]:
    """The last `count` lines (before a place) that are wanted, oldest first; at most 64 MiB are looked through.

    Lines that are no JSON objects are left out. Blocking; to be called in a thread.
    """
    wanted = wanted or Filter()
    found: list[dict[str, Any]] = []
    for raw in _backwards(path, until):
        if len(found) >= min(count, MOST_LINES):
            break
        found.extend(_wanted(raw, wanted))
    return found[::-1]


async def follow(path: Path, count: int, wanted: Filter) -> AsyncGenerator[dict[str, Any], None]:
    """The last `count` lines, then each new one; it goes on over rotations, for ever."""
    growing = await asyncio.to_thread(_Growing, path)
    try:
        for line in await asyncio.to_thread(tail, path, count, wanted, growing.place):
            yield line
        while True:
            for raw in await asyncio.to_thread(growing.lines):
                for line in _wanted(raw, wanted):
                    yield line
            await asyncio.sleep(LOOK_S)
    finally:
        growing.close()


def _wanted(raw: bytes, wanted: Filter) -> list[dict[str, Any]]:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        line = msgspec.json.decode(raw)
        if isinstance(line, dict) and wanted.takes(line):
            return [line]
    return []


class _Growing:
    """The log from its present end on. `place`: that end, without a line that is still being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        self.place: Place | None = None
        with contextlib.suppress(FileNotFoundError):
            self._file = path.open("rb")
            size = self._file.seek(0, os.SEEK_END)
            self._file.seek(max(0, size - _LINE))
            self._rest = self._file.read().rpartition(b"\n")[2]
            end = self._file.tell() - len(self._rest)
            self.place = Place(os.fstat(self._file.fileno()).st_ino, end)

    def lines(self) -> list[bytes]:
        """What is new, at most a block of each file; a file that was rotated away is read to its end first."""
        found = self._more()
        if not found and self._was_rotated():
            self.close()
            with contextlib.suppress(FileNotFoundError):
                self._file, self._rest = self._path.open("rb"), b""
                found = self._more()
        return found

    def _more(self) -> list[bytes]:
        if self._file is None or not (data := self._file.read(_MOST_NEW)):
            return []
        *whole, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= _LINE else b""
        return [line for line in whole if line]

    def _was_rotated(self) -> bool:
        """Whether another file has the name now, or this one was emptied."""
        if self._file is None:
            return True
        try:
            now, mine = self._path.stat(), os.fstat(self._file.fileno())
        except FileNotFoundError:
            return False
        return now.st_ino != mine.st_ino or mine.st_size < self._file.tell()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
        self._file = None


def _backwards(path: Path, until: Place | None) -> Iterator[bytes]:
    """All lines of all files, the youngest first. All are opened first: a rotation meanwhile changes nothing."""
    left = MOST_READ
    with contextlib.ExitStack() as stack:
        for file in [stack.enter_context(file) for file in _opened(path)]:
            now = os.fstat(file.fileno())
            end = now.st_size
            if until is not None:
                if now.st_ino != until.inode:
                    continue
                end, until = until.size, None
            most = min(end, left)
            yield from _lines_backwards(file, end, most)
            left -= most


def _opened(path: Path) -> Iterator[BinaryIO]:
    """The log, which is missing for a moment after a rotation, and the older ones."""
    with contextlib.suppress(FileNotFoundError):
        yield path.open("rb")
    with contextlib.suppress(FileNotFoundError):
        for number in itertools.count(1):
            yield path.with_name(f"{path.name}.{number}").open("rb")


def _lines_backwards(file: BinaryIO, end: int, most: int) -> Iterator[bytes]:
    """The lines of a file from `end` back, of `most` bytes; what is longer than a line may be is left out.

    What follows the last newline is still being written.
    """
    start, rest, complete = max(0, end - most), b"", False
    while end > start:
        begin = max(start, end - _BLOCK)
        file.seek(begin)
        pieces = (file.read(end - begin) + rest).split(b"\n")
        end = begin
        rest = pieces[0] if len(pieces[0]) <= _LINE else b""
        if not complete and len(pieces) > 1:
            complete, pieces = True, pieces[:-1]
        yield from (piece for piece in reversed(pieces[1:]) if piece)
    if complete and start == 0 and rest:
        yield rest
