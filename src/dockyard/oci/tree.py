"""Folders that are filled by somebody else's wishes: every step by descriptor, never through a link.

Unpacking and merging layers both write trees whose names come from an image. `Tree` walks from an open root with
O_NOFOLLOW, so no name, whatever links lie in its way, reaches outside; `staged` gives a folder its name only when it is
complete and on the disk, and removes what a killed process left.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from dockyard.errors import ImageError, StoreError
from dockyard.oci.files import as_store_error, store_errors

DEPTH_LIMIT = 128
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def safe_parts(name: str, what: str) -> tuple[str, ...]:
    """The components of a name from an archive, without a leading `./`; ImageError when it could lead elsewhere."""
    parts = tuple(part for part in name.rstrip("/").split("/") if part != ".")
    if "" in parts and parts != ("",):
        raise unsafe(what, name, "is absolute or has an empty component")
    if ".." in parts:
        raise unsafe(what, name, "leaves the image by '..'")
    if "\0" in name or any(len(os.fsencode(part)) > 255 for part in parts) or len(parts) > DEPTH_LIMIT:
        raise unsafe(what, name, "is not a name that a file system can hold")
    if name.startswith("/"):
        raise unsafe(what, name, "is absolute")
    return () if parts == ("",) else parts


def unsafe(what: str, name: str, why: str) -> ImageError:
    """The error for an entry that nobody honest would write."""
    return ImageError(
        f"{what} is unsafe: {name[:200]!r} {why}", remedy="Do not use this image; find out where it comes from."
    )


class Tree:
    """A folder tree below an open root. Names are tuples of components that `safe_parts` has checked.

    The descriptors of the last folder and of those above it stay open, because archives are sorted.
    """

    def __init__(self, root: Path, what: str) -> None:
        self._what = what
        with store_errors(root):
            self._chain = [os.open(root, FOLDER_FLAGS)]
        self._names: list[str] = []

    def folder(self, parts: tuple[str, ...]) -> int:
        """The descriptor of a folder, made with its parents (0755) where missing; good until the next call.

        ImageError when a link or a file stands in the way.
        """
        common = 0
        while common < min(len(parts), len(self._names)) and parts[common] == self._names[common]:
            common += 1
        self._drop_to(common)
        for position in range(common, len(parts)):
            self._chain.append(self._enter(self._chain[-1], parts, position))
            self._names.append(parts[position])
        return self._chain[-1]

    def _enter(self, parent: int, parts: tuple[str, ...], position: int) -> int:
        name = parts[position]
        try:
            with contextlib.suppress(FileNotFoundError):
                return os.open(name, FOLDER_FLAGS, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
            descriptor = os.open(name, FOLDER_FLAGS, dir_fd=parent)
            os.fchmod(descriptor, 0o755)
        except NotADirectoryError:
            raise unsafe(self._what, "/".join(parts), f"passes through {name!r}, which is no folder") from None
        return descriptor

    def _drop_to(self, length: int) -> None:
        while len(self._names) > length:
            os.close(self._chain.pop())
            self._names.pop()

    def close(self) -> None:
        """Close every descriptor."""
        self._drop_to(0)
        os.close(self._chain.pop())


def make_way(folder: int, name: str) -> bool:
    """Remove a file or link `name`; False when a folder of that name is there, which stays."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return False
        raise
    return True


def remove_entirely(folder: int, name: str) -> None:
    """Remove `name`, file or whole folder, following no link; nothing happens when it is not there."""
    if not make_way(folder, name):
        shutil.rmtree(name, dir_fd=folder)


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder`, durably, when the body succeeds, and is removed when it does not.

    StoreError when `folder` is there already and not empty.
    """
    prefix = f".{folder.name}.partial-"
    with store_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent, prefix)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreError(f"{folder} is there already", remedy="Use it, or remove it first.")
        partial, descriptor = _locked_folder(folder.parent, prefix)
    try:
        yield partial
        with store_errors(folder):
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) | 0o700)
            _sync_file_system(descriptor)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        partial = parent / f"{prefix}{os.getpid()}-{os.urandom(8).hex()}"
        partial.mkdir(mode=0o755)
        descriptor = os.open(partial, FOLDER_FLAGS)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(descriptor, 0o755)
            if os.fstat(descriptor).st_nlink:
                return partial, descriptor
        except BlockingIOError:
            pass
        os.close(descriptor)


def _remove_stale(parent: Path, prefix: str) -> None:
    for path in parent.iterdir():
        if not path.name.startswith(prefix):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, FOLDER_FLAGS)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _sync_file_system(descriptor: int) -> None:
    """Make all files of the file system durable at once, which is far cheaper than one fsync for each of thousands."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise as_store_error(OSError(number, os.strerror(number)), Path(f"/proc/self/fd/{descriptor}"))
