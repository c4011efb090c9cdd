"""Freezing all the processes of a runc container, and thawing them: the kernel's freezer, of either cgroup version.

`runc pause` does the same and takes a program's start for it; a thaw is on the way of a request that waits. Called by
`runc.engine` and `records`. Source: Linux, cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst, "cgroup.freeze".
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from dockyard.cgroups import UNIFIED, groups_of
from dockyard.errors import EngineError

PATIENCE = 10.0
_POLL = 0.002


def is_frozen(pid: int) -> bool:
    """Whether a process and all of its container's are frozen."""
    folder = _cgroup(pid)
    if folder is None:
        return False
    try:
        if _is_unified(folder):
            return "frozen 1" in (folder / "cgroup.events").read_text().splitlines()
        return (folder / "freezer.state").read_text().strip() == "FROZEN"
    except OSError:
        return False  # it has ended


async def freeze(pid: int) -> None:
    """Return once all are frozen; EngineError when the kernel does not manage to within 10 s, or cannot at all."""
    try:
        async with asyncio.timeout(PATIENCE):
            _write(pid, frozen=True)
            while not is_frozen(pid):
                await asyncio.sleep(_POLL)
                _write(pid, frozen=True)  # version 1 gives up on a process that was starting another
    except TimeoutError as error:
        thaw(pid)
        raise EngineError(
            f"process {pid} could not be frozen within {PATIENCE:g} s and goes on",
            remedy="It may be waiting for a disk or a device; look at the kernel's log.",
        ) from error


def thaw(pid: int) -> None:
    """Let them go on, at once."""
    _write(pid, frozen=False)


def _write(pid: int, *, frozen: bool) -> None:
    folder = _cgroup(pid)
    if folder is None:
        raise EngineError(
            f"process {pid} has ended, or has no cgroup that can be frozen",
            remedy="List the containers; if it runs, this host's cgroups lack the freezer.",
        )
    try:
        if _is_unified(folder):
            (folder / "cgroup.freeze").write_text("1" if frozen else "0")
        else:
            (folder / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
    except OSError as error:
        what = "frozen" if frozen else "thawed"
        raise EngineError(
            f"process {pid} could not be {what}: {error.strerror}", remedy="It may just have ended; list containers."
        ) from error


def _cgroup(pid: int) -> Path | None:
    """The folder of a process's cgroup that has the freezer; None when it is gone or has no cgroup of its own."""
    try:
        groups = groups_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = (groups.get(controller) for controller in ("freezer", UNIFIED))
    return next((folder for folder in found if folder is not None and folder.is_dir()), None)


def _is_unified(folder: Path) -> bool:
    return (folder / "cgroup.freeze").exists()
