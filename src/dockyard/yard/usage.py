"""What a container's processes use, read from its control group or, where it has none of its own, from /proc.

Independent of the engine: all that is needed is the first process's number on this host. Called by `sampler`, in a
thread, for all replicas at once; `drift` asks for the limit that the kernel has now, whoever set it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dockyard.cgroups import groups_of, read
from dockyard.yard.points import Usage

MOST_PROCESSES = 1_000
NO_LIMIT = 1 << 60
"""More bytes of memory than any machine has: what the kernel says where there is no limit is more still."""
_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def usages(pids: Iterable[int]) -> dict[int, Usage]:
    """What each of these processes and its children use; those that have ended are left out."""
    found = {pid: usage(pid) for pid in set(pids)}
    return {pid: each for pid, each in found.items() if each is not None}


def usage(pid: int) -> Usage | None:
    """What a process and its children use; None when it has ended."""
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError, StopIteration):
        groups = groups_of(pid)
        cpu, memory = _group_cpu(groups), _group_memory(groups)
        if cpu is None or memory is None:
            tree_cpu, tree_memory = _tree(pid)
            cpu = tree_cpu if cpu is None else cpu
            memory = tree_memory if memory is None else memory
        return Usage(cpu, memory)
    return None


def memory_limit(pid: int) -> int | None:
    """The bytes of memory that a container's processes may use, `NO_LIMIT` for all; None when its group is not known.

    Some engines put the process into a group of its own below the one that they limit: the nearest limit counts.
    """
    with contextlib.suppress(OSError, ValueError):
        groups = groups_of(pid)
        for controller, file in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
            folder = groups.get(controller)
            if folder is not None and (folder / file).is_file():
                return next(_limits(folder, file), NO_LIMIT)
    return None


def _limits(folder: Path, file: str) -> Iterator[int]:
    """The limits of a group and of those above it, the nearest first."""
    for each in (folder, *folder.parents):
        try:
            text = read(each / file).strip()
        except FileNotFoundError:
            return
        if text != "max" and int(text) < NO_LIMIT:
            yield int(text)


def _group_cpu(groups: Mapping[str, Path]) -> float | None:
    """Processor seconds of a control group."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return _fields(groups[""] / "cpu.stat")["usage_usec"] / 1e6
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(read(groups["cpuacct"] / "cpuacct.usage")) / 1e9
    return None


def _group_memory(groups: Mapping[str, Path]) -> float | None:
    """Bytes of a control group without the files that the kernel could drop at once, as Docker and Kubernetes count."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        folder = groups[""]
        return max(0, int(read(folder / "memory.current")) - _fields(folder / "memory.stat")["inactive_file"])
    with contextlib.suppress(OSError, ValueError, KeyError):
        folder = groups["memory"]
        used = int(read(folder / "memory.usage_in_bytes"))
        return max(0, used - _fields(folder / "memory.stat")["total_inactive_file"])
    return None


def _fields(path: Path) -> dict[str, int]:
    return {name: int(number) for name, number in map(str.split, read(path).splitlines())}


def _tree(pid: int) -> tuple[float, float]:
    """Processor seconds and resident bytes of a process and what descends from it.

    Of children that have ended, those count whose parent has waited for them. Memory that processes share is counted in
    each.
    """
    ticks = pages = 0
    for number, each in enumerate(_descendants(pid)):
        with contextlib.suppress(OSError):
            # The second field is the program's name in parentheses, which may hold anything.
            fields = read(_PROC / str(each) / "stat").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
            pages += int(fields[21])
            continue
        if number == 0:
            raise ProcessLookupError(pid)
    return ticks / _TICKS, pages * _PAGE_BYTES


def _descendants(pid: int) -> Iterator[int]:
    """The process first, then what descends from it."""
    waiting = [pid]
    for _ in range(MOST_PROCESSES):
        if not waiting:
            return
        parent = waiting.pop()
        yield parent
        with contextlib.suppress(OSError):
            for thread in (_PROC / str(parent) / "task").iterdir():
                with contextlib.suppress(OSError):
                    waiting += map(int, read(thread / "children").split())
