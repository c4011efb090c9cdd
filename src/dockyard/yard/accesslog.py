"""The gateway's access log: JSON lines that Envoy writes, kept in bounds by the yard, and read from the end.

Envoy only appends. The yard renames a file that has grown too long and asks Envoy to open a new one (`POST
/reopen_logs` of its admin interface, a callable here). The yard calls `rotate` now and then; `dockyard logs --access`
calls `tail` through the API.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

Reopen = Callable[[], Awaitable[None]]

MAX_BYTES = 32 << 20
FILES = 4
MOST_READ = 64 << 20
MOST_LINES = 10_000
_BLOCK = 1 << 16
_LINE = 1 << 16
_log = logging.getLogger(__name__)


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


class AccessLog:
    """The log at `path`, with older files beside it: `NAME.1` is the youngest of them, `NAME.FILES` the oldest."""

    def __init__(self, path: Path, reopen: Reopen, *, max_bytes: int = MAX_BYTES, files: int = FILES) -> None:
        self.path = path
        self._reopen = reopen
        self._max_bytes = max_bytes
        self._files = files
        self._owed = False  # a renamed file is still being written to

    async def rotate(self) -> bool:
        """Begin a new file if the current one is too long; whether that was done. Never raises: it is tried again."""
        try:
            if not self._owed and self._size() < self._max_bytes:
                return False
            if not self._owed:
                self._shift()
                self._owed = True
            await self._reopen()
        except Exception as error:  # whatever the gateway's client raises; the log goes on in the renamed file
            _log.warning("the access log %s cannot be rotated now: %s", self.path, error)
            return False
        self._owed = False
        return True

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _shift(self) -> None:
        for number in range(self._files, 0, -1):
            younger = self._older(number - 1)
            if younger.exists():
                younger.replace(self._older(number))

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path

    def tail(self, count: int, wanted: Filter | None = None) -> list[dict[str, Any]]:
        """The last `count` lines that are wanted, oldest first; at most 64 MiB of the log are looked through.

        Lines that are no JSON objects are left out. Blocking; to be called in a thread.
        """
        wanted = wanted or Filter()
        found: list[dict[str, Any]] = []
        for raw in self._backwards():
            if len(found) >= min(count, MOST_LINES):
                break
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                line = msgspec.json.decode(raw)
                if isinstance(line, dict) and wanted.takes(line):
                    found.append(line)
        return found[::-1]

    def _backwards(self) -> Iterator[bytes]:
        """All lines of all files, the youngest first."""
        left = MOST_READ
        for number in range(self._files + 1):
            with contextlib.suppress(FileNotFoundError):
                path = self._older(number)
                size = min(path.stat().st_size, left)
                yield from _lines_backwards(path, size)
                left -= size


def _lines_backwards(path: Path, most: int) -> Iterator[bytes]:
    """The lines of a file from its end, of the last `most` bytes; what is longer than a line may be is left out.

    What follows the last newline is still being written.
    """
    with path.open("rb") as file:
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
