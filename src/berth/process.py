"""What the system knows of the server's process, under the names that every Prometheus client uses.

Read from /proc when /metrics is asked for, and never otherwise. metrics.py writes the facts of the server down, and
workers/crew.py asks for those of its processes.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")

Fact = tuple[str, str, str, float]  # name, help, type, value


class Usage(NamedTuple):
    """What one process has used so far, and what memory it has."""

    cpu_seconds: float
    resident_bytes: int


def usage(pid: int) -> Usage | None:
    """Of another process; None when it is gone, or the system does not tell."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE_BYTES)


def facts() -> Iterator[Fact]:
    """Processor time, memory, start and descriptors; what this system does not tell is left out."""
    try:
        # The second field is the program's name in parentheses, which may hold anything.
        fields = (_PROC / "self/stat").read_text().rpartition(")")[2].split()
        boot = next(line for line in (_PROC / "stat").read_text().splitlines() if line.startswith("btime "))
        descriptors = sum(1 for _ in (_PROC / "self/fd").iterdir()) - 1  # without the one that lists them
    except (OSError, StopIteration):
        return
    user, system, start, virtual, resident = (int(fields[index]) for index in (11, 12, 19, 20, 21))
    yield "process_cpu_seconds_total", "Processor time of user and system.", "counter", (user + system) / _TICKS
    yield "process_resident_memory_bytes", "Resident memory.", "gauge", resident * _PAGE_BYTES
    yield "process_virtual_memory_bytes", "Virtual memory.", "gauge", virtual
    started = int(boot.split()[1]) + start / _TICKS
    yield "process_start_time_seconds", "Start, in seconds since 1970.", "gauge", started
    yield "process_open_fds", "Open file descriptors.", "gauge", descriptors
    yield "process_max_fds", "The most that may be open.", "gauge", resource.getrlimit(resource.RLIMIT_NOFILE)[0]
