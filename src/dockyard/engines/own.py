"""What this host's kernel has of a container, once that is sure: its control groups, and its first process.

An engine tells the process's number as it sees it. One in a virtual machine means others by it here, so it counts only
with a control group that is named after the container. Called by `weight` and the `docker` engine.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dockyard.cgroups import UNIFIED, groups_of, mounts
from dockyard.engines.base import Container

_PLACES = ("{}", "docker/{}", "system.slice/docker-{}.scope")
"""Where Docker makes a container's control group: as `cgroup-parent` = "/", by default, under systemd."""


def groups_named_after(container: Container) -> Mapping[str, Path]:
    """Its control groups by controller, those of its own; OSError when it has ended."""
    if container.pid is None:
        return {}
    return {name: folder for name, folder in groups_of(container.pid).items() if container.id in str(folder)}


def groups_made_for(container_id: str) -> Mapping[str, Path]:
    """Its group that weights are written to, where Docker makes it; empty until it has, or where it does otherwise.

    It is there long before Docker says that the container runs, and which process is its first.
    """
    name = "cpu" if "cpu" in mounts() else UNIFIED
    folders = [mounts()[name] / place.format(container_id) for place in _PLACES if name in mounts()]
    made = next((folder for folder in folders if folder.is_dir()), None)
    return {name: made} if made else {}


def send_signal(container: Container, number: signal.Signals) -> bool:
    """Signal its first process; False, and nothing was sent, when it has ended, is not ours to signal, or not here."""
    if container.pid is None:
        return False
    with suppress(OSError):
        process = os.pidfd_open(container.pid)
        try:
            if groups_named_after(container):
                signal.pidfd_send_signal(process, number)
                return True
        finally:
            os.close(process)
    return False
