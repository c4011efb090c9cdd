"""Where the kernel keeps the control groups (cgroups) of a process, of either version.

Independent of the engine: all that is needed is a process's number on this host. `engines` writes there (`weight`,
`runc.freezer`), the yard's `usage` reads. Source: Linux, cgroups(7), and proc_pid_cgroup(5).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

UNIFIED = ""
"""The name under which the group of version 2 is found."""
_PROC = Path("/proc")
_READ_BYTES = 1 << 16


def groups_of(pid: int) -> Mapping[str, Path]:
    """The folder of a process's group by controller, of those that it does not share with us; OSError when it is gone.

    What lies outside of what this host mounts, or is the root, is left out: nobody may change that for one container.
    """
    ours = _paths("self")
    mounted = mounts()
    return {
        name: mounted[name] / path.lstrip("/")
        for name, path in _paths(str(pid)).items()
        if name in mounted and path not in {"/", ours.get(name)} and ".." not in path
    }


def read(path: Path) -> str:
    """A small file of the kernel's."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _READ_BYTES).decode("utf-8", "replace")
    finally:
        os.close(descriptor)


def _paths(pid: str) -> dict[str, str]:
    found = {}
    for line in read(_PROC / pid / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            found[name] = path
    return found


@cache
def mounts() -> Mapping[str, Path]:
    """Where each controller is mounted on this host."""
    found = {}
    for line in read(_PROC / "self/mounts").splitlines():
        _, place, kind, options = line.split(" ", 4)[:4]
        if kind == "cgroup2":
            found[UNIFIED] = Path(place)
        elif kind == "cgroup":
            found |= {name: Path(place) for name in options.split(",")}
    return found
