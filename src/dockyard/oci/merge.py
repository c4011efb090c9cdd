"""Several unpacked layers become one root tree, for hosts without an overlay file system.

`engines.runc` calls it. Files are hard links, so a tree costs no space; whiteouts and opaque folders are honoured as
an overlay would: a folder above a file or link replaces it. Source: OCI image specification 1.1, layer.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from dockyard.oci.files import store_errors
from dockyard.oci.tree import FOLDER_FLAGS, make_way, remove_entirely, safe_parts, staged
from dockyard.oci.unpacked import UnpackedLayer

_CANNOT_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM}


def merge_layers(layers: Sequence[UnpackedLayer], target: Path) -> None:
    """Make `target`, which must not be there yet, of layers, lowest first. The layers' files are shared: never write.

    StoreError when the disk is full; then no `target` is left behind.
    """
    with staged(target) as partial, store_errors(target):
        root = os.open(partial, FOLDER_FLAGS)
        try:
            for layer in layers:
                _delete(root, layer)
                source = os.open(layer.folder, FOLDER_FLAGS)
                try:
                    _lay_over(source, root)
                finally:
                    os.close(source)
        finally:
            os.close(root)


def _delete(root: int, layer: UnpackedLayer) -> None:
    """Remove from the lower layers what this one hides."""
    for path in layer.opaque:
        with _folder_below(root, safe_parts(path, f"{layer.folder}")) as folder:
            if folder is not None:
                for name in os.listdir(folder):  # noqa: PTH208 (a descriptor)
                    remove_entirely(folder, name)
    for path in layer.whiteouts:
        parts = safe_parts(path, f"{layer.folder}")
        with _folder_below(root, parts[:-1]) as folder:
            if folder is not None:
                remove_entirely(folder, parts[-1])


@contextlib.contextmanager
def _folder_below(root: int, parts: tuple[str, ...]) -> Iterator[int | None]:
    """The descriptor of a folder below `root`; None when it is not there or no folder."""
    descriptor: int | None = os.dup(root)
    try:
        for name in parts:
            former, descriptor = descriptor, _enter(descriptor, name)
            if former is not None:
                os.close(former)
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _enter(folder: int | None, name: str) -> int | None:
    try:
        return None if folder is None else os.open(name, FOLDER_FLAGS, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _lay_over(source: int, target: int) -> None:
    """Put everything in the folder `source` over the folder `target`."""
    os.fchmod(target, stat.S_IMODE(os.fstat(source).st_mode))
    with os.scandir(source) as found:
        children = sorted(found, key=lambda child: child.name)
    for child in children:
        if child.is_dir(follow_symlinks=False):
            _lay_folder_over(source, target, child.name)
        else:
            remove_entirely(target, child.name)
            _link(source, target, child.name)


def _lay_folder_over(source: int, target: int, name: str) -> None:
    if make_way(target, name):
        os.mkdir(name, 0o755, dir_fd=target)
    upper = os.open(name, FOLDER_FLAGS, dir_fd=source)
    try:
        lower = os.open(name, FOLDER_FLAGS, dir_fd=target)
        try:
            _lay_over(upper, lower)
        finally:
            os.close(lower)
    finally:
        os.close(upper)


def _link(source: int, target: int, name: str) -> None:
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        _copy(source, target, name)


def _copy(source: int, target: int, name: str) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        return
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open(os.open(name, os.O_RDONLY | flags, dir_fd=source), "rb") as old,  # noqa: PTH123 (a descriptor)
        open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, dir_fd=target), "wb") as new,  # noqa: PTH123
    ):
        shutil.copyfileobj(old, new, 1 << 20)
        os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode))
        os.utime(new.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
