"""Tells which names in folders have changed, as Linux's kernel notices it (inotify). Called by `watcher`.

A folder's own files are told, not those of folders in it: each folder is watched by itself. Source: inotify(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ATTRIBUTES, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x4, 0x8, 0x40, 0x80
_CREATE, _DELETE, _OVERFLOW, _IGNORED, _ONLY_FOLDERS, _IS_FOLDER = 0x100, 0x200, 0x4000, 0x8000, 0x1000000, 0x40000000
_ASKED = _ATTRIBUTES | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLY_FOLDERS
_HEAD = struct.Struct("iIII")  # watch, what, cookie, bytes of the name
_READ = 1 << 16


@dataclass(frozen=True)
class Event:
    """Something that happened to `path`. `whole`: it was written to its end, or put there whole; not so when it went,
    or has just begun. Of a change of its permissions or times alone (`attributes`) nothing of this is known.
    """

    path: Path
    whole: bool
    is_folder: bool
    attributes: bool = False


class Inotify:
    """Watched folders. OSError when the kernel has no inotify, or this user has used up what there is of it."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._folders: dict[int, Path] = {}
        self._descriptor = self._call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """What to wait on until there is something to read."""
        return self._descriptor

    def watch(self, folder: Path) -> None:
        """Watch a folder, unless it is watched already; one that is not there any more is passed over."""
        try:
            watch = self._call("inotify_add_watch", self._descriptor, os.fsencode(folder), _ASKED)
        except (FileNotFoundError, NotADirectoryError):
            return
        self._folders[watch] = folder

    def read(self) -> tuple[list[Event], bool]:
        """What has happened since the last call, and whether all of it is told (the kernel keeps so many events)."""
        events: list[Event] = []
        complete = True
        while True:
            try:
                data = os.read(self._descriptor, _READ)
            except BlockingIOError:
                return events, complete
            for watch, what, name in _records(data):
                complete = complete and not what & _OVERFLOW
                if what & _IGNORED:
                    self._folders.pop(watch, None)
                elif name and watch in self._folders:
                    whole = bool(what & (_CLOSE_WRITE | _MOVED_TO))
                    is_folder, attributes = bool(what & _IS_FOLDER), bool(what & _ATTRIBUTES)
                    events.append(Event(self._folders[watch] / name, whole, is_folder, attributes))

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self._descriptor)

    def _call(self, name: str, *arguments: object) -> int:
        result: int = getattr(self._libc, name)(*arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), name)
        return result


def _records(data: bytes) -> Iterator[tuple[int, int, str]]:
    place = 0
    while place < len(data):
        watch, what, _, length = _HEAD.unpack_from(data, place)
        place += _HEAD.size + length
        yield watch, what, os.fsdecode(data[place - length : place].rstrip(b"\0"))
