"""Getting a listening socket back from the container that serves on it, after its first owner was killed.

The yard keeps a copy of every replica's listening socket, so that connections queue while a container is started again.
A new yard finds the copy of a dead one in the container's process and takes it from there: the kernel lists the inode
of the listening socket of a path (/proc/net/unix), the process has a descriptor of that inode (/proc/PID/fd), and
pidfd_getfd copies it. Source: pidfd_open(2), pidfd_getfd(2), proc(5).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

from dockyard.engines.sockets import Listener
from dockyard.errors import EngineError

_PIDFD_GETFD = 438
_ACCEPTS = 0x10000  # __SO_ACCEPTCON in the flags of /proc/net/unix


def recover(pid: int, path: Path) -> Listener | None:
    """The listener of the socket at `path`, copied from process `pid` of this host; the process goes on with its own.

    None when that process is gone or does not listen there. EngineError when the kernel does not let us: it needs
    Linux 5.6 and the rights of a debugger (root).
    """
    inodes = _listening_inodes(path)
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        for descriptor in _descriptors_of(pid, inodes):
            found = _copy(process, descriptor, pid)
            if found is not None and _is_listener(found, path):
                return Listener(path.parent, [found])
            if found is not None:
                found.close()
    finally:
        os.close(process)
    return None


def _listening_inodes(path: Path) -> frozenset[str]:
    """The inodes of sockets that listen at a path. A container's are here: they belong to where they were made."""
    found = set()
    with Path("/proc/net/unix").open("rb") as table:
        next(table)
        for line in table:
            _, _, _, flags, _, _, inode, *name = line.rstrip(b"\n").split(None, 7)
            if name == [bytes(path)] and int(flags, 16) & _ACCEPTS:
                found.add(inode.decode())
    return frozenset(found)


def _descriptors_of(pid: int, inodes: frozenset[str]) -> list[int]:
    """The descriptors of a process that are one of these sockets."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = []
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if str(entry.readlink()) in wanted:
                    found.append(int(entry.name))
    except (FileNotFoundError, ProcessLookupError):
        return []
    except PermissionError as error:
        raise _not_allowed(pid, error) from error
    return found


def _copy(process: int, descriptor: int, pid: int) -> socket.socket | None:
    """A copy of a descriptor of another process; None when it has closed it, or is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    copied = libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
    if copied >= 0:
        return socket.socket(fileno=copied)
    number = ctypes.get_errno()
    if number in {errno.EBADF, errno.ESRCH}:
        return None
    error = OSError(number, os.strerror(number))
    raise _not_allowed(pid, error) from error


def _is_listener(found: socket.socket, path: Path) -> bool:
    found.setblocking(False)
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) and found.getsockname() == str(path)


def _not_allowed(pid: int, error: OSError) -> EngineError:
    return EngineError(
        f"the listening socket of process {pid} cannot be taken over: {error.strerror}",
        remedy="Run the yard as root; without it, connections that come while this replica restarts are refused.",
    )
