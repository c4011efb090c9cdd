"""What the builds of one process remember of one another, so that an edit costs no more than what follows from it.

Only what has a key that says all it depends on is kept here, so a build with a memory makes the same image as one
without. A single build begins with an empty one; `cli.watching` gives the same to each. Called by `content` and
`builder`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

from dockyard.build.bytecode import Spare
from dockyard.oci.digest import Digest
from dockyard.oci.files import store_errors

Signature = tuple[int, ...]
# A file that has changed this shortly before it was read could change again and look the same: clocks of file systems
# tick every few milliseconds.
_FRESH_NS = 100_000_000
_FILES_LIMIT = 100_000


class Memory:
    """Digests of files, the last value of each kind, and a process that waits to compile.

    `lasting`: what nobody waits for, such as the removal of a scratch folder, is done when `tidy` is called.
    """

    def __init__(self, *, lasting: bool = False) -> None:
        self.spare = Spare()
        self._lasting = lasting
        self._chores: list[Callable[[], object]] = []
        self._values: dict[str, tuple[Hashable, Any]] = {}
        self._digests: dict[str, tuple[Signature, Digest]] = {}

    def recall(self, kind: str, key: Hashable) -> Any:
        """The last value of a kind, if it was kept under this very key; else None."""
        kept, value = self._values.get(kind, (None, None))
        return value if kept == key else None

    def keep(self, kind: str, key: Hashable, value: Any) -> None:
        """Keep a value, in place of the last one of its kind."""
        self._values[kind] = (key, value)

    def digest(self, file: Path, read: Callable[[Path], Digest]) -> Digest:
        """The digest of a file, read anew when the file system says that it may have changed."""
        with store_errors(file):
            found = file.stat()
        signature = signature_of(found)
        name = str(file)
        known = self._digests.get(name)
        if known is not None and known[0] == signature:
            return known[1]
        now = time.time_ns()
        digest = read(file)
        if max(found.st_mtime_ns, found.st_ctime_ns) < now - _FRESH_NS and len(self._digests) < _FILES_LIMIT:
            self._digests[name] = (signature, digest)
        return digest

    def later(self, chore: Callable[[], object]) -> None:
        """Do something that nobody waits for."""
        self._chores.append(chore)
        if not self._lasting:
            self.tidy()

    def tidy(self) -> None:
        """Do what was put off."""
        while self._chores:
            self._chores.pop()()

    def close(self) -> None:
        """End the process that waits, and do what was put off."""
        self.spare.close()
        self.tidy()


def signature_of(found: os.stat_result) -> Signature:
    """What tells that a file has changed, as git does: its size, times, number, and whether it can be run."""
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode)


def signatures_below(folder: str) -> Iterator[tuple[str, Signature]]:
    """Every file below a folder with its signature, by path, without bytecode."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            found = entry.stat()
            if stat.S_ISDIR(found.st_mode):
                if entry.name != "__pycache__":
                    yield from signatures_below(entry.path)
            elif not entry.name.endswith(".pyc"):
                yield entry.path, signature_of(found)
