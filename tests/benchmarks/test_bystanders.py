"""What the benchmark of rollouts sees of programs that have no part in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from benchmarks.deploy.bystanders import held, together, watching

BUSY = """
import sys, time
sys.stdin.readline()
before = time.process_time()
for _ in range(5_000_000):
    pass
print(time.process_time() - before)
"""


TRACER = "mount -t tracefs nodev /mnt && mkdir /mnt/instances/dockyard-$$ && rmdir /mnt/instances/dockyard-$$"


def may_trace() -> bool:
    """Whether this machine lets us: root of a container mostly may not."""
    command = ["unshare", "--mount", "sh", "-c", TRACER]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0


def started() -> subprocess.Popen[str]:
    """A program that works for a moment once it is told to, and then says how much processor time it took."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", BUSY], stdin=pipe, stdout=pipe, text=True)


def busy(program: subprocess.Popen[str]) -> float:
    """Let it work; the seconds that it took."""
    words, _ = program.communicate("\n", timeout=60)
    return float(words)


def seconds(spans: Iterable[tuple[float, float]]) -> float:
    """How long they are together."""
    return sum(end - begin for begin, end in spans)


@pytest.mark.skipif(not may_trace(), reason="nobody may trace here")
def test_who_was_there_before_is_seen_while_it_is_busy_and_who_came_later_is_not() -> None:
    before = started()
    time.sleep(0.3)  # it has begun to read
    with watching() as seen:
        begin = time.time()
        took = busy(before)
        end = time.time()
        later = started()
        busy(later)
        spans = seen.spans()
        assert seen.folder is not None
        trace = (seen.folder / "trace").read_text(errors="replace").splitlines()
    assert not seen.folder.parent.parent.exists()  # nothing stays mounted
    assert before.pid in seen.threads
    assert later.pid not in seen.threads
    its_own = held(trace, frozenset({before.pid}))  # others of the machine work, too
    assert took / 2 < seconds(its_own) < took * 1.5
    assert spans is not None
    assert seconds(span for span in spans if begin < span[1] and span[0] < end) > took / 2


def test_what_the_scheduler_accounts_for_is_the_time_before() -> None:
    lines = [
        "  agent-7  [000] d.h2. 10.002000: sched_stat_runtime: comm=agent pid=7 runtime=2000000 [ns]",
        "  agent-7  [000] d.h2. 10.003000: sched_stat_runtime: comm=agent pid=7 runtime=100000 [ns]",
        "  other-9  [001] d.h2. 10.009000: sched_stat_runtime: comm=other pid=9 runtime=4000000 [ns]",
        "  <idle>-0 [001] d.s2. 10.001500: sched_stat_runtime: comm=an agent pid=8 runtime=1000000 [ns]",
    ]
    found = [(round(begin, 6), round(end, 6)) for begin, end in held(lines, frozenset({7, 8}))]
    assert found == [(10.0, 10.002), (10.0005, 10.0015)]


def test_what_is_close_is_one_disturbance() -> None:
    assert together([(1.0, 1.002), (1.004, 1.005), (1.2, 1.3)]) == [(1.0, 1.005), (1.2, 1.3)]
