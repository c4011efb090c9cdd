"""How much processor time a container gets where it is scarce, beside its siblings: in full, or yielding to them.

A replica that starts imports and loads for a second or more, on the cores on which others answer requests; with a low
weight it takes what they leave. A low weight alone lets those that wake up wait for it all the same; an idle group is
preempted at once, and gets next to nothing on a full host. On a host with time to spare neither changes anything. Both
engines leave containers at the kernel's default, which FULL restores, so this is written to the kernel: an engine that
remembered a low weight could bring it back. runc is told to begin with it, for nobody else drives its containers; on
Docker the group is looked for while it is made. Who may not raise it cannot lower one either. Called by `launch`,
`runc.bundle`, the `docker` engine, the yard's `fleet` and `adopt`.
Source: Linux, admin-guide/cgroup-v2.rst, "cpu.weight"; scheduler/sched-design-CFS.rst, "cpu.shares"; kernel/sched/
fair.c, `sched_group_set_idle` and `check_preempt_wakeup_fair`: `cpu.idle` in both versions, since Linux 5.15.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dockyard.cgroups import UNIFIED, read
from dockyard.engines.base import Container
from dockyard.engines.own import groups_made_for, groups_named_after
from dockyard.scheduling import give_way, put_first


class Weight(Enum):
    """A container's weight beside its siblings: a tenth of the usual one is little, and never nothing; IDLE may be."""

    FULL = 100
    YIELDING = 10
    IDLE = 0


IDLE_S = 2.0
"""For how long one is idle: a usual start takes less, and on a full host an idle one gets nowhere."""
_SHARES_OF_FULL = 1024
_LOOK_S = 0.005


@dataclass(frozen=True)
class Group:
    """A control group of either version: its folder, the file that holds its weight, and what that says when full."""

    folder: Path
    file: str
    full: int

    def put(self, weight: Weight) -> None:
        """Write a weight; where the kernel knows no idle groups, IDLE is YIELDING. An OSError makes nothing idle.

        An idle group takes no weight, and one that is idle no more has the full one.
        """
        idle = self.folder / "cpu.idle"
        known = idle.exists()
        if known:
            idle.write_text("0")
        (self.folder / self.file).write_text(str(_counted(weight, self.full)))
        if known and weight is Weight.IDLE:
            idle.write_text("1")

    def share(self) -> float:
        """Its weight as a share of the full one; for an idle group the kernel tells next to nothing, or nothing."""
        return int(read(self.folder / self.file)) / self.full


def shares(weight: Weight) -> int:
    """A weight as control groups of version 1, and runc's configuration, count it."""
    return _counted(weight, _SHARES_OF_FULL)


def weigh(container: Container, weight: Weight) -> bool:
    """Give a container a weight; whether it has it now.

    Only one that has the full weight is scheduled as what answers requests (`scheduling`). False when it has ended,
    has no group of its own on this host, or only root may do this.
    """
    with suppress(OSError):
        group = _among(groups_named_after(container))
        return group is not None and _weigh(group, weight)
    return False


async def rise(container: Container, patience: float, enough: asyncio.Event) -> None:
    """Idle at first, then with a tenth of the weight, and with all of it once it is `enough` or patience ends."""
    idle = min(IDLE_S, patience)
    for weight, seconds in ((Weight.IDLE, idle), (Weight.YIELDING, patience - idle)):
        weigh(container, weight)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await enough.wait()
                break
    weigh(container, Weight.FULL)


@contextmanager
def yielding_from_its_first_moment(container_id: str) -> Iterator[None]:
    """The block has Docker start a container, which yields from when it has a group, long before Docker says so.

    It goes on as it is then: whoever started it gives it its weight.
    """
    early = asyncio.ensure_future(_yield(container_id))
    try:
        yield
    finally:
        early.cancel()


async def _yield(container_id: str) -> None:
    with suppress(OSError):
        while (group := _among(groups_made_for(container_id))) is None:  # noqa: ASYNC110 nobody tells us
            await asyncio.sleep(_LOOK_S)
        _weigh(group, Weight.IDLE)
        await asyncio.sleep(IDLE_S)
        _weigh(group, Weight.YIELDING)


def _weigh(group: Group, weight: Weight) -> bool:
    with suppress(OSError):
        processes = [int(each) for each in read(group.folder / "cgroup.procs").split()]
        group.put(weight)  # the last that may fail, so an error makes nothing idle
        schedule = put_first if weight is Weight.FULL else give_way
        schedule(processes)
        return True
    return False


def weight_of(container: Container) -> float | None:
    """Its weight as a share of the full one; None when it has no group of its own, or is gone."""
    with suppress(OSError, ValueError):
        group = _among(groups_named_after(container))
        return group.share() if group else None
    return None


def _counted(weight: Weight, full: int) -> int:
    return full * max(weight.value, Weight.YIELDING.value) // Weight.FULL.value


def _among(groups: Mapping[str, Path]) -> Group | None:
    """The one of a container's groups that has its weight."""
    if "cpu" in groups:
        return Group(groups["cpu"], "cpu.shares", _SHARES_OF_FULL)
    if UNIFIED in groups:
        return Group(groups[UNIFIED], "cpu.weight", Weight.FULL.value)
    return None
