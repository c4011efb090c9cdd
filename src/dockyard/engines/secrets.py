"""Secrets of a container: files in the host's memory, mounted at /run/secrets, never on a disk.

Each container has a folder of its own in a tmpfs that no other user can enter. It is there before the container and
goes when the container is removed; it does not need us in between. Both engines call this in the same order: `reserve`
an empty folder, note it in the container's labels, then `fill` it. So whatever is cut short leaves nothing that is
secret and not noted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets as random
import shutil
from collections.abc import Mapping
from pathlib import Path

from dockyard.engines.access import SECRET_BYTES
from dockyard.errors import EngineError
from dockyard.oci.files import exclusive

ROOT = Path("/run/dockyard/secrets")
_PATIENCE = 10.0
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_MOUNTS = (("tmpfs", "mode=0700,size=64m,noswap"), ("ramfs", "mode=0700"))


def reserve(name: str) -> Path:
    """A new empty folder in memory for the container of this name. EngineError where this user cannot have one."""
    if os.geteuid() != 0:
        raise EngineError(
            "secrets are given by root only: their files belong to the container's user",
            remedy="Run the yard as root, or mount a file that the container's user may read.",
        )
    _ensure_memory()
    folder = ROOT / f"{name}-{random.token_hex(4)}"
    folder.mkdir(mode=0o500)
    return folder


def fill(folder: str, values: Mapping[str, bytes | Path], uid: int, gid: int) -> None:
    """Write the secrets, each readable by this user alone. EngineError, naming the secret, for a file that is amiss."""
    if not values:
        return
    for name, value in values.items():
        content = value if isinstance(value, bytes) else _read(name, value)
        descriptor = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with open(descriptor, "wb") as file:  # noqa: PTH123
            os.fchown(descriptor, uid, gid)
            file.write(content)
    os.chown(folder, uid, gid)


def remove(folder: str) -> None:
    """Remove a container's secrets. A path that is not one of our folders is left alone."""
    path = Path(folder)
    if path.parent == ROOT and ".." not in path.parts:
        shutil.rmtree(path, ignore_errors=True)


def _read(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_BYTES + 1)
    except OSError as error:
        raise EngineError(
            f"secret {name} cannot be read from {path}: {error.strerror}",
            remedy="Name a file of the yard's host that the yard may read.",
        ) from error
    if len(content) > SECRET_BYTES:
        raise EngineError(f"secret {name}: {path} has more than {SECRET_BYTES} bytes", remedy="Mount it instead.")
    return content


def _ensure_memory() -> None:
    """Make ROOT a file system in memory that is never swapped out: once, until the host restarts."""
    ROOT.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    ROOT.mkdir(mode=0o700, exist_ok=True)
    with exclusive(ROOT.parent / ".lock", _PATIENCE):
        if not ROOT.is_mount():
            _mount_memory()


def _mount_memory() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, options in _MOUNTS:
        if libc.mount(b"dockyard", bytes(ROOT), kind.encode(), _NOSUID | _NODEV | _NOEXEC, options.encode()) == 0:
            return
        number = ctypes.get_errno()
        if number != errno.EINVAL:  # of a kernel before 6.4, which does not know `noswap`
            break
    raise EngineError(
        f"no place in memory for secrets: {ROOT} cannot be mounted: {os.strerror(number)}",
        remedy=f"Mount a tmpfs there: mount -t tmpfs -o mode=0700,size=64m dockyard {ROOT}",
    )
