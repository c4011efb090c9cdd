"""What the benchmark of rollouts says of spans of time: the requests that began in them, and the machine's stalls."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.deploy.stalls import Stalls, watched
from benchmarks.deploy.windows import Told, told

BEGUN = datetime(2026, 11, 26, 10, 0, 0, tzinfo=UTC).timestamp()


def write(log: Path, requests: Iterable[tuple[float, float]]) -> None:
    """Requests (seconds after `BEGUN`, milliseconds), as the gateway writes them; the last line is not finished."""
    with log.open("w") as file:
        for after, milliseconds in requests:
            begun = datetime.fromtimestamp(BEGUN + after, UTC)
            text = begun.strftime("%Y-%m-%dT%H:%M:%S.") + f"{begun.microsecond // 1000:03}Z"
            file.write(json.dumps({"time": text, "status": 200, "duration_us": round(milliseconds * 1000)}) + "\n")
        file.write('{"time": "2026-11-')


def test_only_requests_that_began_within_a_span_count(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    write(tmp_path / "access.log.1", [(0.0, 500.0), *((1 + number / 1000, 1.0) for number in range(99)), (1.5, 9.0)])
    write(log, [(2.0, 700.0), (3.0, 20.0), (3.1, 30.0), (4.1, 900.0)])
    assert told(log, [(BEGUN + 1, BEGUN + 1.6)]) == Told(1, 100, 1.0, 9.0)
    assert told(log, [(BEGUN + 1, BEGUN + 1.6), (BEGUN + 3, BEGUN + 4)]) == Told(2, 102, 1.0, 20.0)


def test_spans_that_the_log_no_longer_has_are_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    write(log, [(2.0, 1.0), (3.0, 2.0)])
    assert told(log, [(BEGUN + 1, BEGUN + 1.5), (BEGUN + 2.5, BEGUN + 4)]) == Told(1, 1, 2.0, 2.0)
    with pytest.raises(RuntimeError, match="no request of these 1 spans"):
        told(log, [(BEGUN + 10, BEGUN + 11)])


@pytest.mark.skipif(os.geteuid() != 0, reason="real-time priority is for root")
def test_a_processor_that_ran_nothing_else_for_a_while_is_noticed() -> None:
    def hold() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass

    with watched() as stalls:
        time.sleep(0.5)
        begin = time.time()
        holder = threading.Thread(target=hold)
        holder.start()
        holder.join()
        end = time.time()
    assert stalls.within([(begin - 0.01, end + 0.01)])["longest_ms"] > 30


def test_stalls_are_told_of_the_spans_alone() -> None:
    stalls = Stalls([(1.0, 1.005), (2.0, 2.01), (3.0, 3.004)])
    assert stalls.within([(0.5, 1.5), (2.5, 3.5)]) == pytest.approx({"count": 2, "total_ms": 9.0, "longest_ms": 5.0})
    assert stalls.within([]) == {"count": 0, "total_ms": 0.0, "longest_ms": 0.0}
