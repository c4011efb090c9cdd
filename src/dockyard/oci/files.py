"""Files that are whole or not there: temporary names, fsync, rename, locks, and disk errors in plain words.

The store must survive a killed process, a full disk and two builds at once. Blobs, index.json and archives are all
written through `PartialFile`; nothing else in `dockyard.oci` renames or locks.

A partial file is locked (flock) while its writer lives. The kernel drops the lock of a killed process, so whoever
opens the store next can tell what is stale and remove it, without guessing by age.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from dockyard.errors import StoreError, StoreLockedError

LOCK_PATIENCE = 30.0
_LOCK_INTERVAL = 0.01
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def as_store_error(error: OSError, place: Path) -> StoreError:
    """What the operating system refused, in words, with the remedy."""
    if error.errno in _FULL:
        return StoreError(
            f"the disk that holds {place} is full",
            remedy="Free some space there (`df -h` shows how much is left), then run the same command again.",
        )
    reason = error.strerror or str(error)
    if error.errno in _FORBIDDEN:
        return StoreError(
            f"{place} cannot be used: {reason}", remedy="Give this user access to it, or choose another place."
        )
    return StoreError(f"{place} cannot be used: {reason}", remedy="Check that the path is right and its disk healthy.")


@contextlib.contextmanager
def store_errors(place: Path) -> Iterator[None]:
    """Turn an OSError of the body, which must touch nothing but `place`, into a StoreError."""
    try:
        yield
    except OSError as error:
        raise as_store_error(error, place) from error


class PartialFile:
    """A file being written under a temporary name in `folder`, until `commit` gives it its final one.

    A context manager: what was not committed is removed. Made on the file system of its final name, and locked. Where
    others keep files too, `prefix` sets the temporary names apart.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self._folder = folder
        with store_errors(folder):
            try:
                self._descriptor, self.path = _create_locked(folder, prefix)
            except FileNotFoundError:
                folder.mkdir(parents=True, exist_ok=True)
                self._descriptor, self.path = _create_locked(folder, prefix)
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`; StoreError when the disk is full."""
        rest = memoryview(data)
        with store_errors(self._folder):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def hasten(self) -> None:
        """Have the system begin to write what there is to the disk. A hint: of several files written one after the
        other, the first that is committed then takes the others along.
        """
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def commit(self, final: Path, *, durable: bool = True) -> None:
        """Make the bytes durable, unless told otherwise, then give them their name, replacing what had it."""
        with store_errors(final):
            if durable:
                os.fsync(self._descriptor)
            try:
                self.path.rename(final)
            except FileNotFoundError:
                final.parent.mkdir(parents=True, exist_ok=True)
                self.path.rename(final)
        self._close()

    def discard(self) -> None:
        """Remove it unless it was committed."""
        if self._open:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        self._open = False
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def _create_locked(folder: Path, prefix: str) -> tuple[int, Path]:
    """A new file with its lock taken: (descriptor, path). A cleaner may win the race for the lock: try another name."""
    while True:
        path = folder / f"{prefix}{os.getpid()}-{os.urandom(8).hex()}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        if os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)


def remove_stale(folder: Path, prefix: str = "") -> None:
    """Remove partial files (with this prefix) whose writer died. Never fails: a read-only store stays as it is."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if not path.name.startswith(prefix):
                continue
            with contextlib.suppress(OSError):
                _remove_if_unlocked(path)


def _remove_if_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def replace_file(final: Path, data: bytes, partials: Path) -> None:
    """Give `final` new content, durably and at once: a reader sees the old bytes or the new ones."""
    with PartialFile(partials) as partial:
        partial.write(data)
        partial.commit(final)
    sync_folder(final.parent)


def replace_note(final: Path, data: bytes) -> None:
    """As `replace_file`, of what can be made again: after a power failure it may be gone, or cut off.

    Who reads it must be able to tell.
    """
    with PartialFile(final.parent) as partial:
        partial.write(data)
        partial.commit(final, durable=False)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    with store_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def exclusive(path: Path, patience: float = LOCK_PATIENCE) -> Iterator[None]:
    """Hold the lock file `path`, among processes and threads; StoreLockedError when not free within `patience` s."""
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock_within(descriptor, path, patience)
        yield
    finally:
        os.close(descriptor)


def _lock_within(descriptor: int, path: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise StoreLockedError(
                    f"{path} is held by another process for more than {patience:g} s",
                    remedy="Wait for the other command to end, or find it with `fuser` and stop it.",
                ) from None
            time.sleep(_LOCK_INTERVAL)
        except OSError as error:
            raise as_store_error(error, path) from error
        else:
            return
