"""One yard for each home: a lock that the kernel lets go of however its holder ends. `run` holds it, `down` reads it.

The lock file has the holder's process id, which is read only while the lock is held.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from pathlib import Path

from dockyard.errors import YardConflictError
from dockyard.oci.files import store_errors

_FILE = "lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a yard's folder; YardConflictError when a yard runs there already."""
    with store_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (folder / _FILE).open("a+")
    with file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise YardConflictError(
                f"a yard runs in {folder} already",
                remedy="Use that one, stop it first, or give this one a home of its own: DOCKYARD_HOME.",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def holder(folder: Path) -> int | None:
    """The process id of the yard that runs there, if one does."""
    try:
        file = (folder / _FILE).open()
    except FileNotFoundError:
        return None
    with file:
        try:
            flock(file, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            text = file.read().strip()
            return int(text) if text.isdigit() else None
        flock(file, LOCK_UN)
        return None
