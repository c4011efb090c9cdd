"""How much processor time a container gets where it is scarce, beside its siblings: in full, or yielding to them.

A replica that starts imports and loads for a second or more, on the cores on which others answer requests; with a low
weight it takes what they leave. On a host with time to spare a weight changes nothing. Both engines leave containers at
the kernel's default, which FULL restores, so this is written to the kernel: an engine that remembered a low weight
could bring it back. runc is told to begin with it, for nobody else drives its containers. Who may not raise it cannot
lower one either. Called by `launch`, `runc.bundle` and the yard's `fleet`.
Source: Linux, admin-guide/cgroup-v2.rst, "cpu.weight"; scheduler/sched-design-CFS.rst, "cpu.shares".
"""

from __future__ import annotations

from contextlib import suppress
from enum import Enum

from dockyard.cgroups import UNIFIED, read
from dockyard.engines.base import Container
from dockyard.engines.own import groups_named_after
from dockyard.scheduling import give_way, put_first


class Weight(Enum):
    """A container's weight beside its siblings: a tenth of the usual one is little, and never nothing."""

    FULL = 100
    YIELDING = 10


_SHARES_OF_FULL = 1024


def shares(weight: Weight) -> int:
    """A weight as control groups of version 1, and runc's configuration, count it."""
    return _SHARES_OF_FULL * weight.value // Weight.FULL.value


def weigh(container: Container, weight: Weight) -> bool:
    """Give a container a weight; whether it has it now.

    Only one that has the full weight is scheduled as what answers requests (`scheduling`). False when it has ended,
    has no group of its own on this host, or only root may do this.
    """
    with suppress(OSError):
        groups = groups_named_after(container)
        if "cpu" in groups:
            folder = groups["cpu"]
            (folder / "cpu.shares").write_text(str(shares(weight)))
        elif UNIFIED in groups:
            folder = groups[UNIFIED]
            (folder / "cpu.weight").write_text(str(weight.value))
        else:
            return False
        schedule = put_first if weight is Weight.FULL else give_way
        schedule(map(int, read(folder / "cgroup.procs").split()))
        return True
    return False


def weight_of(container: Container) -> float | None:
    """Its weight as a share of the full one; None when it has no group of its own, or is gone."""
    with suppress(OSError, ValueError):
        groups = groups_named_after(container)
        if "cpu" in groups:
            return int(read(groups["cpu"] / "cpu.shares")) / _SHARES_OF_FULL
        if UNIFIED in groups:
            return int(read(groups[UNIFIED] / "cpu.weight")) / Weight.FULL.value
    return None
