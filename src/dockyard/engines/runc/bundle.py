"""The OCI runtime configuration of a container: how it is confined, in the words that runc reads.

Pure: `runc.engine` writes the result into the bundle. What it must hold is said in the threat table: not root, no
capabilities, no new privileges, read-only root, a system call filter, limits, no network.
Source: OCI runtime specification 1.0, config.md and config-linux.md.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockyard.engines.access import SECRETS_MOUNT, SOCKET_MOUNT
from dockyard.engines.base import OOM_SCORE, OPEN_FILES, ContainerSpec, tmp_options
from dockyard.engines.runc.seccomp import profile
from dockyard.engines.weight import Weight, shares
from dockyard.spec.deployment import Mount

CPU_PERIOD = 100_000
_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True)
class Host:
    """What the machine offers: cgroup version 2 (`unified`), a limit of memory and swap together, open files."""

    unified: bool
    limits_swap: bool
    open_files: int


def host_features(cgroups: Path = Path("/sys/fs/cgroup")) -> Host:
    """Look at the machine's cgroups."""
    unified = (cgroups / "cgroup.controllers").exists()
    counts_swap = unified or (cgroups / "memory" / "memory.memsw.limit_in_bytes").exists()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Host(unified, counts_swap, OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most))


@dataclass(frozen=True)
class Bundle:
    """What a container is made of besides its spec.

    `root`: the root folder, relative to the bundle or absolute. `mounts` have real sources. `secrets`: their folder.
    """

    root: str
    cgroup: str
    mounts: tuple[Mount, ...] = ()
    secrets: str = ""


def runtime_config(spec: ContainerSpec, bundle: Bundle, host: Host) -> dict[str, Any]:
    """The whole of `config.json`."""
    return {
        "ociVersion": "1.0.2",
        "hostname": spec.name,
        "root": {"path": bundle.root, "readonly": True},
        "process": _process(spec, host),
        "mounts": [*_mounts(spec, host), *_given(spec, bundle)],
        "linux": {
            "namespaces": [{"type": kind} for kind in _namespaces(host)],
            "cgroupsPath": bundle.cgroup,
            "resources": _resources(spec, host),
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
            "seccomp": profile(),
        },
    }


def _process(spec: ContainerSpec, host: Host) -> dict[str, Any]:
    variables = {"HOSTNAME": spec.name, "HOME": "/", **spec.variables}
    return {
        "terminal": False,
        "user": {"uid": spec.user.uid, "gid": spec.user.gid},
        "args": list(spec.arguments),
        "env": [f"{name}={value}" for name, value in variables.items()],
        "cwd": spec.image.config.working_dir or "/",
        "capabilities": {kind: [] for kind in _SETS},
        "noNewPrivileges": True,
        "oomScoreAdj": OOM_SCORE,
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": host.open_files, "hard": host.open_files},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ],
    }


def _namespaces(host: Host) -> tuple[str, ...]:
    always = ("pid", "network", "ipc", "uts", "mount")
    return (*always, "cgroup") if host.unified else always


def _mounts(spec: ContainerSpec, host: Host) -> list[dict[str, Any]]:
    tight = ["nosuid", "noexec", "nodev"]
    found = [
        _mount("/proc", "proc", tight),
        _mount("/dev", "tmpfs", ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        _mount("/dev/shm", "tmpfs", [*tight, "mode=1777", "size=65536k"]),  # noqa: S108
        _mount("/sys", "sysfs", [*tight, "ro"]),
        _mount("/tmp", "tmpfs", tmp_options(spec.user)),  # noqa: S108
    ]
    if host.unified:
        found.append(_mount("/sys/fs/cgroup", "cgroup", [*tight, "relatime", "ro"]))
    return found


def _given(spec: ContainerSpec, bundle: Bundle) -> list[dict[str, Any]]:
    """What is the host's: folders that the user named, sockets, secrets. What is mounted below a source stays out."""
    found = [
        _bind(mount.source, mount.target, ["rw" if mount.writable else "ro", "nosuid", "nodev"])
        for mount in bundle.mounts
    ]
    tight = ["ro", "nosuid", "noexec", "nodev"]
    if spec.sockets is not None:
        found.append(_bind(str(spec.sockets.folder), SOCKET_MOUNT, tight))
    if bundle.secrets:
        found.append(_bind(bundle.secrets, SECRETS_MOUNT, tight))
    return found


def _bind(source: str, target: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": source, "options": ["bind", "private", *options]}


def _mount(destination: str, kind: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": options}


def _resources(spec: ContainerSpec, host: Host) -> dict[str, Any]:
    limits = spec.resources
    memory = {"limit": limits.memory}
    if host.limits_swap:
        memory["swap"] = limits.memory
    processor = {"quota": round(limits.cpus * CPU_PERIOD), "period": CPU_PERIOD}
    if spec.yielding:
        processor["shares"] = shares(Weight.YIELDING)  # from its first moment on; who raises it again is `launch`
    return {
        "devices": [{"allow": False, "access": "rwm"}],
        "memory": memory,
        "cpu": processor,
        "pids": {"limit": limits.pids},
    }
