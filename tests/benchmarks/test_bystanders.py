"""What the benchmark of rollouts sees of programs that have no part in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks.deploy.bystanders import held, together, watching

BUSY = """
import sys, time
sys.stdin.readline()
until = time.monotonic() + 0.2
while time.monotonic() < until:
    pass
"""


def started() -> subprocess.Popen[bytes]:
    """A program that is busy for a fifth of a second once it is told to."""
    return subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE)


def busy(program: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Let it be busy; when that was."""
    begin = time.time()
    program.communicate(b"\n", timeout=20)
    return begin, time.time()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may trace")
def test_who_was_there_before_is_seen_while_it_is_busy_and_who_came_later_is_not() -> None:
    before = started()
    time.sleep(0.3)  # it has begun to read
    with watching() as seen:
        begin, end = busy(before)
        time.sleep(0.1)
        later = busy(started())
        spans = seen.spans()
    assert spans is not None
    assert sum(span[1] - span[0] for span in spans if begin <= span[0] and span[1] <= end) > 0.1
    assert sum(span[1] - span[0] for span in spans if span[0] >= later[0] and span[1] <= later[1]) < 0.1


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
