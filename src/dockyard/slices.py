"""For how long a thread runs before the kernel looks who else waits: short for what answers requests.

What wakes up with a shorter slice than what runs takes the processor from it at once, and does not wait for the end of
its slice, or for the next tick of the clock: on this depends how long a request waits for a processor that is busy.
How much of it a thread gets is a matter of weights, and stays the same. Kernels before 6.12 know nothing of it, and
nothing happens there. The gateway's is set by `gateway.process` before it begins, those of replicas by
`engines.weight` when they are ready. Source: sched_setattr(2), and Linux, kernel/sched/syscalls.c: `sched_runtime` is
the slice of a thread of the usual policies, from 0.1 to 100 ms.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SHORT_NS = 100_000
"""The shortest that the kernel grants."""
USUAL = 0
"""The kernel's own choice: some milliseconds."""
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


def give_slices(processes: Iterable[int], slice_ns: int) -> None:
    """Give this slice to all threads of these processes, and so to those that they start; as far as we may."""
    for process in processes:
        with suppress(OSError):
            for thread in (_PROC / str(process) / "task").iterdir():
                with suppress(OSError):
                    _give(int(thread.name), slice_ns)


def slice_of(thread: int) -> int:
    """A thread's slice in nanoseconds; 0 where the kernel tells none. OSError when it is gone."""
    return int(_attributes(thread).runtime)


def _give(thread: int, slice_ns: int) -> None:
    attributes = _attributes(thread)
    if attributes.policy in _USUAL:
        attributes.runtime = slice_ns
        _call(0, thread, ctypes.byref(attributes), 0)


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
