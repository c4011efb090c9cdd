"""The yard's own process gives way to the processes that answer requests. Called by `cli.up`, before it has threads.

What it starts gives way too: runc, tools. The replicas get the usual priority back where they are started, and the
gateway a higher one (`engines.runc.monitor`, `gateway.process`). Only root may give that, so nobody else gives way.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

NICENESS = 10
"""A ninth of the usual share beside others of one control group (sched(7)); the yard needs milliseconds a second."""
_SESSION = Path("/proc/self/autogroup")


def give_way() -> None:
    """Take less of the processor than others where it is scarce: within the control group, and as a session.

    Kernels that schedule by session (autogroup, sched(7)) do not compare the niceness of processes of two sessions.
    """
    if os.geteuid() != 0:
        return
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    if os.getsid(0) != os.getpid():
        return  # it is the session of a shell, and of what else runs in that
    with suppress(OSError):  # no such kernel
        _SESSION.write_text(str(NICENESS))
