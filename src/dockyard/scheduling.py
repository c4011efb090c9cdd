"""How the kernel schedules what answers requests, and what gives way to it, beside their weights and niceness.

What answers has a short slice: when it wakes up it takes the processor at once from what runs there, and does not wait
for the end of that one's slice, or for the next tick of the clock. What gives way has the policy SCHED_IDLE: a
processor on which nothing else runs counts as idle then, and whoever wakes up elsewhere goes there. Without that, one
that starts has a processor for itself, however little it weighs, while all that answer share the others until the
kernel balances their load. Shares of a processor stay a matter of weights. Kernels before 6.12 know nothing of slices,
and nothing happens there. The kernel does not look for such a processor where all of them together are busy, so those
threads that every request passes are told where to run. Called by `gateway.process` and `engines.weight`.
Source: sched(7), sched_setattr(2); Linux, kernel/sched/syscalls.c: `sched_runtime` is the slice of a thread of the
usual policies, from 0.1 to 100 ms; kernel/sched/fair.c, `sched_idle_cpu`, `select_idle_cpu` (SIS_UTIL).
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

SHORT_NS = 100_000
"""The shortest slice that the kernel grants; by itself it chooses some milliseconds."""
_ROUNDS = 5  # a thread may start another while it is looked for
_PROC = Path("/proc")
_NUMBERS = {"x86_64": (314, 315), "aarch64": (274, 275)}  # sched_setattr, sched_getattr
_USUAL = (0, 3)  # SCHED_OTHER and SCHED_BATCH: for others the field is a budget
_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    """`struct sched_attr`."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def put_first(processes: Iterable[int]) -> None:
    """Let all threads of these processes, and those that they start, answer requests; as far as we may."""
    _to_threads(processes, _first)


def give_way(processes: Iterable[int]) -> None:
    """Let all threads of these processes, and those that they start, give way to what answers; as far as we may."""
    _to_threads(processes, _last)


def spread_out(process: int, prefix: str) -> int:
    """Keep each thread of a process whose name begins so on a processor of its own; how many such threads there are.

    As far as we may, and only where there are as many as processors that the process may use.
    """
    found = []
    with suppress(OSError):
        processors = sorted(os.sched_getaffinity(process))
        for thread in (_PROC / str(process) / "task").iterdir():
            with suppress(OSError):
                if (thread / "comm").read_text().startswith(prefix):
                    found.append(int(thread.name))
        if len(found) == len(processors):
            for thread_id, processor in zip(sorted(found), processors, strict=True):
                os.sched_setaffinity(thread_id, {processor})
    return len(found)


def slice_of(thread: int) -> int:
    """A thread's slice in nanoseconds; 0 where the kernel tells none. OSError when it is gone."""
    return int(_attributes(thread).runtime)


def _to_threads(processes: Iterable[int], do: Callable[[int], None]) -> None:
    for process in processes:
        done: set[str] = set()
        with suppress(OSError):
            for _ in range(_ROUNDS):
                threads = {thread.name for thread in (_PROC / str(process) / "task").iterdir()} - done
                if not threads:
                    break
                for thread in threads:
                    with suppress(OSError):
                        do(int(thread))
                done |= threads


def _first(thread: int) -> None:
    if os.sched_getscheduler(thread) == os.SCHED_IDLE:
        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
    attributes = _attributes(thread)
    if attributes.policy in _USUAL:
        attributes.runtime = SHORT_NS
        _call(0, thread, ctypes.byref(attributes), 0)


def _last(thread: int) -> None:
    if os.sched_getscheduler(thread) in _USUAL:
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def _attributes(thread: int) -> _Attributes:
    found = _Attributes()
    _call(1, thread, ctypes.byref(found), ctypes.sizeof(found), 0)
    return found


def _call(which: int, *arguments: object) -> None:
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        raise OSError("this machine's numbers of system calls are not known here")
    if _libc.syscall(numbers[which], *arguments) != 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses")
