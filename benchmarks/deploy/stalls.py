"""When the machine itself stood still: what no program on it can help, and every latency then has. Used by `rollouts`.

On a shared host the hypervisor takes a processor away now and then. A program sees only that time has passed.
`python -m benchmarks.deploy.stalls CPU` looks at one processor until it is told to end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from benchmarks.deploy.windows import Span

LOOK_S = 0.001
STALL_S = 0.003
"""A thread with the highest priority that wakes up this much later than it wanted: nothing ran there."""
_STOP_DEADLINE_S = 10.0


@dataclass
class Stalls:
    """Spans in which a processor ran nothing, for longer than `STALL_S`; filled at the end."""

    spans: list[Span] = field(default_factory=list)

    def within(self, spans: Sequence[Span]) -> dict[str, float]:
        """How many began within these spans, and how long they were."""
        seconds = [end - begin for begin, end in self.spans if any(first <= begin <= last for first, last in spans)]
        return {"count": len(seconds), "total_ms": sum(seconds) * 1e3, "longest_ms": max(seconds, default=0.0) * 1e3}


@contextmanager
def watched() -> Iterator[Stalls]:
    """Watch each processor for as long as the body takes. Without the right to real-time priority nothing is seen."""
    found = Stalls()
    watchers = [
        subprocess.Popen([sys.executable, "-m", __name__, str(cpu)], stdout=subprocess.PIPE)
        for cpu in sorted(os.sched_getaffinity(0))
        if os.geteuid() == 0
    ]
    try:
        yield found
    finally:
        for watcher in watchers:
            watcher.send_signal(signal.SIGTERM)
        for watcher in watchers:
            words, _ = watcher.communicate(timeout=_STOP_DEADLINE_S)
            found.spans.extend((begin, end) for begin, end in json.loads(words or b"[]"))
        found.spans.sort()


def _watch(cpu: int) -> NoReturn:
    """Look at one processor until SIGTERM; then print the stalls."""
    seen: list[Span] = []

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        print(json.dumps(seen), flush=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
    while True:
        before = time.monotonic()
        time.sleep(LOOK_S)
        late = time.monotonic() - before - LOOK_S
        if late > STALL_S:
            now = time.time()
            seen.append((now - late, now))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cpu", type=int, help="the processor to look at")
    _watch(parser.parse_args().cpu)
