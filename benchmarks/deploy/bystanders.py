"""When programs that have no part in a measurement held a processor, here or on the host. Used by `rollouts`.

A machine has other things to do: an agent that looks around once a second for ten milliseconds is, on two cores, a 99th
percentile of its own. The kernel's tracer notes how long a process that was there before the measurement had a
processor, each time that the scheduler accounts for it: at every tick and switch. Nothing else is traced, so to watch
costs next to nothing, and the programs measured are left as they are. The kernel's own threads are no bystanders, for
what they do may be done for us. Only root may trace, and not in every container. The tracer's files are mounted at a
place of the watch's own for as long as it takes, since many a machine has them nowhere. Programs of other virtual
machines on the same host are bystanders too; all that is known of them is the time that they took (`steal`).
Source: Linux, trace/ftrace.rst and trace/events.rst: instances, set_event_pid.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.deploy import steal
from benchmarks.deploy.windows import Span

LONG_S = 0.0005
"""For so long at once; who only passes by holds nobody up."""
TOGETHER_S = 0.006
"""What is not further apart is one disturbance."""
_KIB = 16384
_TOOK = re.compile(r" ([\d.]+): sched_stat_runtime: .*pid=(\d+) runtime=(\d+) \[ns\]")


@dataclass(frozen=True)
class Bystanders:
    """All programs that ran when the watch began, but for this one. `folder`: the tracer's; None where nobody may.
    `host`: the other machines of this one's host.
    """

    threads: frozenset[int]
    folder: Path | None
    host: steal.Steal

    def spans(self) -> list[Span] | None:
        """When they held a processor so far, in seconds since 1970; the oldest are gone when there were very many."""
        if self.folder is None:
            return None
        zero = time.time() - time.monotonic()
        with (self.folder / "trace").open(errors="replace") as lines:
            ours = [(begin + zero, end + zero) for begin, end in held(lines, self.threads)]
        return together(sorted([*ours, *self.host.spans()]))


@contextmanager
def watching() -> Iterator[Bystanders]:
    """Watch whoever runs now, for as long as the block takes; to be called before what is measured is started."""
    threads = frozenset(_threads())
    with _tracer() as files:
        folder = files / "instances" / f"dockyard-{os.getpid()}"
        try:
            watched = _begin(folder, threads)
            with steal.watching() as host:
                yield Bystanders(threads, folder if watched else None, host)
        finally:
            _remove(folder)


def held(lines: Iterable[str], threads: frozenset[int]) -> list[Span]:
    """Each time that one of these threads held a processor for long, by the tracer's lines; in the order of begins."""
    found = []
    for line in lines:
        if (took := _TOOK.search(line)) is not None and int(took[2]) in threads:
            end, length = float(took[1]), int(took[3]) / 1e9
            if length >= LONG_S:
                found.append((end - length, end))
    return sorted(found)


def together(spans: Iterable[Span]) -> list[Span]:
    """Spans in order, those that are close to one another as one."""
    found: list[Span] = []
    for begin, end in spans:
        if found and begin - found[-1][1] <= TOGETHER_S:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def _threads() -> Iterator[int]:
    """The threads of all programs; the kernel's own have no command line."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with suppress(OSError):
                if (process / "cmdline").read_bytes():
                    yield from (int(thread.name) for thread in (process / "task").iterdir())


@contextmanager
def _tracer() -> Iterator[Path]:
    """Where the tracer's files are meanwhile; an empty folder where nobody may mount them."""
    files = Path(tempfile.mkdtemp(prefix="dockyard-tracer-"))
    mounted = _did("mount", "-t", "tracefs", "nodev", str(files))
    try:
        yield files
    finally:
        if not mounted or _did("umount", str(files)):
            files.rmdir()


def _did(*command: str) -> bool:
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    return False


def _begin(folder: Path, threads: frozenset[int]) -> bool:
    with suppress(OSError):
        folder.mkdir()
        (folder / "trace_clock").write_text("mono")
        (folder / "buffer_size_kb").write_text(str(_KIB))
        (folder / "set_event_pid").write_text(" ".join(map(str, sorted(threads))))
        (folder / "events/sched/sched_stat_runtime/enable").write_text("1")
        return True
    return False


def _remove(folder: Path) -> None:
    with suppress(OSError):
        (folder / "events/enable").write_text("0")
        folder.rmdir()
