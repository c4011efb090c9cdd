"""What answers goes first and what starts gives way, whole processes and all that they start, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.scheduling import SHORT_NS, give_way, put_first, slice_of

DEADLINE_S = 20.0
THREADS_AND_A_CHILD = """
import subprocess, sys, threading
ask = threading.Event()
threading.Thread(target=ask.wait, daemon=True).start()
print("ready", flush=True)
sys.stdin.readline()
late = threading.Thread(target=ask.wait, daemon=True)
late.start()
child = subprocess.Popen(["sleep", "60"])
print(late.native_id, child.pid, flush=True)
sys.stdin.readline()
child.kill()
child.wait()
"""


@pytest.fixture
def program() -> Iterator[subprocess.Popen[str]]:
    """A process of two threads; told to go on, it starts a third and a child, and says their numbers."""
    command = [sys.executable, "-c", THREADS_AND_A_CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if not slice_of(process.pid):
            pytest.skip("this kernel tells no slices: they came with Linux 6.12")
        yield process
        process.communicate("\n", timeout=DEADLINE_S)


def threads(process: int) -> list[int]:
    return [int(each.name) for each in Path(f"/proc/{process}/task").iterdir()]


def test_all_threads_of_a_process_and_all_that_they_start_have_short_slices(program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    assert program.stdout is not None
    usual = slice_of(os.getpid())
    assert usual > SHORT_NS
    put_first([program.pid])
    assert [slice_of(each) for each in threads(program.pid)] == [SHORT_NS, SHORT_NS]
    program.stdin.write("\n")
    program.stdin.flush()
    later = map(int, program.stdout.readline().split())
    assert [slice_of(each) for each in later] == [SHORT_NS, SHORT_NS]
    assert slice_of(os.getpid()) == usual


def test_their_niceness_stays(program: subprocess.Popen[str]) -> None:
    os.setpriority(os.PRIO_PROCESS, program.pid, 7)
    put_first([program.pid])
    assert os.getpriority(os.PRIO_PROCESS, program.pid) == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may let what gives way answer again")
def test_what_gives_way_does_so_with_all_it_starts_until_it_is_put_first(program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    assert program.stdout is not None
    give_way([program.pid])
    program.stdin.write("\n")
    program.stdin.flush()
    later, child = map(int, program.stdout.readline().split())
    everyone = {*threads(program.pid), later, child}
    assert {os.sched_getscheduler(each) for each in everyone} == {os.SCHED_IDLE}
    put_first([program.pid, child])
    assert {os.sched_getscheduler(each) for each in everyone} == {os.SCHED_OTHER}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a real-time policy")
def test_threads_of_another_policy_are_left_alone(program: subprocess.Popen[str]) -> None:
    os.sched_setscheduler(program.pid, os.SCHED_RR, os.sched_param(1))
    put_first([program.pid])
    give_way([program.pid])
    assert os.sched_getscheduler(program.pid) == os.SCHED_RR
    os.sched_setscheduler(program.pid, os.SCHED_OTHER, os.sched_param(0))


def test_a_process_that_has_ended_is_passed_over() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(DEADLINE_S)
    put_first([process.pid])
    give_way([process.pid])
    with pytest.raises(OSError, match="refuses"):
        slice_of(process.pid)
