"""A server's processes, all of them: started on one core, measured as a tree, and ended by id. Called by `trial`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

STOP_DEADLINE_S = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it; the start time tells it from a later one with the same id."""

    pid: int
    parent: int
    session: int
    cpu_seconds: float
    started: int


@dataclass(frozen=True)
class Tree:
    """A process that leads a session, with all its descendants and whoever is left in its session."""

    root: subprocess.Popen[bytes]

    def processes(self) -> list[Process]:
        """Those alive now."""
        alive = list(everyone())
        found = {item.pid: item for item in alive if self.root.pid in {item.pid, item.session}}
        while more := [item for item in alive if item.parent in found and item.pid not in found]:
            found.update((item.pid, item) for item in more)
        return list(found.values())

    def cpu_seconds(self) -> float:
        """User and system time of those alive, and of the children that they have waited for."""
        return sum(item.cpu_seconds for item in self.processes())

    def resident_mib(self) -> float:
        """Resident memory; pages that several processes share are counted once (proportional set size)."""
        return round(sum(_proportional_kib(item.pid) for item in self.processes()) / 1024, 1)

    def stop(self) -> None:
        """SIGTERM to the root, a deadline, then SIGKILL to whoever of the tree is left."""
        known = {(item.pid, item.started) for item in self.processes()}
        with suppress(ProcessLookupError):
            self.root.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.root.wait(STOP_DEADLINE_S)
        known |= {(item.pid, item.started) for item in self.processes()}
        for item in everyone():
            if (item.pid, item.started) in known:
                with suppress(ProcessLookupError):
                    os.kill(item.pid, signal.SIGKILL)
        self.root.wait(STOP_DEADLINE_S)


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], core: int, log: Path) -> Iterator[Tree]:
    """The command pinned to a core, its output in the log, until the block ends."""
    with log.open("ab") as output:
        pinned = ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *command]
        root = subprocess.Popen(
            pinned, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    tree = Tree(root)
    try:
        yield tree
    finally:
        tree.stop()


def all_cpu_seconds() -> float:
    """User and system time of every process there is, and time stolen by the host; only differences mean something."""
    stolen = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / _TICKS
    return sum(item.cpu_seconds for item in everyone()) + stolen


def own_cpu_seconds() -> float:
    """This process and the children that it has waited for: the harness with its load generators."""
    return sum(os.times()[:4])


def remaining(deadline: float, *, step: float = 0.02) -> Iterator[float]:
    """Yields the seconds that are left, every `step`, until the deadline on the monotonic clock."""
    while (left := deadline - time.monotonic()) > 0:
        yield left
        time.sleep(min(step, left))


def everyone() -> Iterator[Process]:
    """Every process that this user sees, zombies left out."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                spent = sum(map(int, fields[11:15])) / _TICKS
                yield Process(int(folder.name), int(fields[1]), int(fields[3]), spent, int(fields[19]))


def _proportional_kib(pid: int) -> int:
    with suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0
