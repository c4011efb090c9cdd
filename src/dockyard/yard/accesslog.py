"""The gateway's access log, read from its end: JSON lines, the youngest in the file, older ones in those beside it.

The gateway writes and rotates it; here is only how it is read, as plain functions over its path. `telling` calls `tail`
for `dockyard logs --access`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

MOST_READ = 64 << 20
MOST_LINES = 10_000
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


def tail(path: Path, count: int, wanted: Filter | None = None) -> list[dict[str, Any]]:
    """The last `count` lines that are wanted, oldest first; at most 64 MiB of the log are looked through.

    Lines that are no JSON objects are left out. Blocking; to be called in a thread.
    """
    wanted = wanted or Filter()
    found: list[dict[str, Any]] = []
    for raw in _backwards(path):
        if len(found) >= min(count, MOST_LINES):
            break
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            line = msgspec.json.decode(raw)
            if isinstance(line, dict) and wanted.takes(line):
                found.append(line)
    return found[::-1]


def _backwards(path: Path) -> Iterator[bytes]:
    """All lines of all files, the youngest first. All are opened first: a rotation meanwhile changes nothing."""
    left = MOST_READ
    with contextlib.ExitStack() as stack:
        for file in [stack.enter_context(file) for file in _opened(path)]:
            size = min(os.fstat(file.fileno()).st_size, left)
            yield from _lines_backwards(file, size)
            left -= size


def _opened(path: Path) -> Iterator[BinaryIO]:
    """The log, which is missing for a moment after a rotation, and the older ones."""
    with contextlib.suppress(FileNotFoundError):
        yield path.open("rb")
    with contextlib.suppress(FileNotFoundError):
        for number in itertools.count(1):
            yield path.with_name(f"{path.name}.{number}").open("rb")


def _lines_backwards(file: BinaryIO, most: int) -> Iterator[bytes]:
    """The lines of a file from its end, of the last `most` bytes; what is longer than a line may be is left out.

    What follows the last newline is still being written.
    """
    end = file.seek(0, os.SEEK_END)
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
