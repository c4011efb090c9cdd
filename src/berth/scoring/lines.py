"""An input as bytes and as lines: both bounded, and every wait for a pipe can be ended. Called by sources.py."""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from typing import NamedTuple

from berth.errors import InputError

STDIN = "-"
_PIECE = 1 << 18
_POLL_S = 0.2
_BOM = b"\xef\xbb\xbf"


class Input:
    """An open file or pipe. A read from a pipe ends when `stop` is called."""

    def __init__(self, path: str) -> None:
        try:
            self._descriptor = os.dup(0) if path == STDIN else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            name = "standard input" if path == STDIN else path
            raise InputError(f"{name} cannot be read: {error.strerror}") from error
        status = os.fstat(self._descriptor)
        self._waits = not stat.S_ISREG(status.st_mode)
        self.size = None if self._waits else status.st_size
        self.stopped = False

    def read(self, count: int = _PIECE) -> bytes:
        """At most so many bytes; none at the end."""
        while self._waits and not select.select([self._descriptor], [], [], _POLL_S)[0]:
            if self.stopped:
                return b""
        return os.read(self._descriptor, count)

    def stop(self) -> None:
        """See `Source.stop`."""
        self.stopped = True

    def close(self) -> None:
        """See `Source.close`."""
        os.close(self._descriptor)


class Line(NamedTuple):
    """One line without its end; `end` is its position in the input. One that is too long has no data."""

    data: bytes
    end: int
    too_long: bool


class Lines:
    """An input line by line, none longer than `limit` bytes."""

    def __init__(self, source: Input, limit: int) -> None:
        self._source = source
        self._limit = limit
        self._lines: deque[Line] = deque()
        self._pieces: list[bytes] = []  # of the line that is not whole yet
        self._size = 0
        self._position = 0
        self._begun = False
        self._ended = False

    @property
    def ready(self) -> bool:
        """Whether a whole line is here."""
        return bool(self._lines)

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> Line:
        while not self._lines and not self._ended:
            self._read()
        if not self._lines:
            raise StopIteration
        return self._lines.popleft()

    def _read(self) -> None:
        data = self._source.read()
        if not self._begun:
            self._begun = True
            data = self._without_mark(data)
        if not data:
            self._ended = True
            if self._size:
                self._finish(b"", newline=0)
            return
        first, *others = data.split(b"\n")
        if not others:
            self._keep(first)
            return
        self._finish(first, newline=1)
        for line in others[:-1]:
            self._finish(line, newline=1)
        self._keep(others[-1])

    def _without_mark(self, data: bytes) -> bytes:
        """The beginning without the byte order mark that some spreadsheets write."""
        while data and data != _BOM and _BOM.startswith(data) and (more := self._source.read()):
            data += more
        if data.startswith(_BOM):
            self._position = len(_BOM)
            return data[len(_BOM) :]
        return data

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            self._pieces.clear()
        elif data:
            self._pieces.append(data)

    def _finish(self, data: bytes, newline: int) -> None:
        self._keep(data)
        self._position += self._size + newline
        self._lines.append(Line(b"".join(self._pieces), self._position, self._size > self._limit))
        self._pieces.clear()
        self._size = 0
