"""What the benchmark of rollouts says of spans of time: the requests that began in them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

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
    assert told(log, [(BEGUN + 1, BEGUN + 1.6)]) == Told(1, 100, 1.0, 9.0, 9.0)
    assert told(log, [(BEGUN + 1, BEGUN + 1.6), (BEGUN + 3, BEGUN + 4)]) == Told(2, 102, 1.0, 20.0, 19.5)


def test_spans_that_the_log_no_longer_has_are_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    write(log, [(2.0, 1.0), (3.0, 2.0)])
    assert told(log, [(BEGUN + 1, BEGUN + 1.5), (BEGUN + 2.5, BEGUN + 4)]) == Told(1, 1, 2.0, 2.0, 2.0)
    with pytest.raises(RuntimeError, match="no request of these 1 spans"):
        told(log, [(BEGUN + 10, BEGUN + 11)])


def test_requests_that_others_held_up_can_be_left_out(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    before, waiting, catching_up, after = (1.0, 100.0), (1.195, 30.0), (1.213, 9.0), (1.3, 2.0)
    write(log, [before, waiting, catching_up, after])
    span = (BEGUN + 1, BEGUN + 2)
    assert told(log, [span]).requests == 4
    assert told(log, [span], disturbed=[(BEGUN + 1.2, BEGUN + 1.21)]) == Told(1, 2, 100.0, 100.0, 100.0)
