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
    assert sum(span[1] - span[0] for span in spans if begin <= span[0] and span[1] <= end) > 0.1
    assert sum(span[1] - span[0] for span in spans if span[0] >= later[0] and span[1] <= later[1]) < 0.1


def test_a_thread_holds_a_core_from_one_switch_to_the_next_on_it() -> None:
    lines = [
        "  agent-7  [000] d..2. 10.000000: sched_switch: prev_comm=a prev_pid=0 x ==> next_comm=agent next_pid=7 y",
        "  agent-8  [001] d..2. 10.000500: sched_switch: prev_comm=a prev_pid=5 x ==> next_comm=agent next_pid=8 y",
        "  agent-8  [001] d..2. 10.000600: sched_switch: prev_comm=agent prev_pid=8 x ==> next_comm=a next_pid=5 y",
        "  agent-7  [000] d..2. 10.002000: sched_switch: prev_comm=agent prev_pid=7 x ==> next_comm=a next_pid=9 y",
        "  agent-7  [001] d..2. 10.003000: sched_switch: prev_comm=agent prev_pid=7 x ==> next_comm=a next_pid=9 y",
    ]
    assert held(lines, frozenset({7, 8})) == [(10.0, 10.002)]


def test_what_is_close_is_one_disturbance() -> None:
    assert together([(1.0, 1.002), (1.004, 1.005), (1.2, 1.3)]) == [(1.0, 1.005), (1.2, 1.3)]
