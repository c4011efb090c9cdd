"""What the gateway's access log says of spans of time. Used by `rollouts`.

A load's own percentiles are of all of its time, the calm between two rollouts included. The gateway writes down each
request with its begin, so that those which began while a rollout ran can be told apart.
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

Span = tuple[float, float]
"""Begin and end, in seconds since 1970."""
FLUSH_S = 1.5
"""The gateway writes what it has buffered at least this often."""
AFTER_S = 0.004
"""So long after a disturbance, what waited meanwhile is caught up with; the log's times are of a millisecond."""


@dataclass(frozen=True)
class Told:
    """Requests that began within spans of time, by the gateway's log. Milliseconds from first byte to last.

    `spans`: how many of the spans the log still has; it is kept in bounds, so the oldest may be gone. `p99_ms` is of
    all spans together, so a single long stall can make it; `median_p99_ms` is of the span in the middle, each having
    its own.
    """

    spans: int
    requests: int
    p50_ms: float
    p99_ms: float
    median_p99_ms: float


class _Line(msgspec.Struct):
    time: str
    duration_us: int | str | None = None


def told(log: Path, spans: Sequence[Span], *, disturbed: Sequence[Span] = ()) -> Told:
    """What an access log tells of these spans; call it `FLUSH_S` after the last.

    Requests that were under way while something `disturbed` the machine, or in the moment after it, do not count.
    """
    requests = list(_undisturbed(_requests(log), sorted(disturbed)))
    oldest = min((begun for begun, _ in requests), default=0.0)
    kept = [span for span in spans if span[0] >= oldest]
    within = [sorted(took for begun, took in requests if begin <= begun <= end) for begin, end in kept]
    found = sorted(took for each in within for took in each)
    if not found:
        raise RuntimeError(f"{log} has no request of these {len(spans)} spans; did the load reach this gateway?")
    middle = statistics.median(_share(each, 99) for each in within if each)
    return Told(len(kept), len(found), _share(found, 50), _share(found, 99), middle)


def _share(ascending: Sequence[float], percent: int) -> float:
    return ascending[len(ascending) * percent // 100]


def _undisturbed(requests: Iterable[tuple[float, float]], disturbed: Sequence[Span]) -> Iterator[tuple[float, float]]:
    begins = [begin for begin, _ in disturbed]
    for begun, took in requests:
        last = bisect_right(begins, begun + took / 1e3) - 1  # the last disturbance that began before it was answered
        if last < 0 or disturbed[last][1] + AFTER_S < begun:
            yield begun, took


def _requests(log: Path) -> Iterator[tuple[float, float]]:
    """Begin (seconds since 1970) and length (milliseconds) of each request, in all files of a log."""
    decode = msgspec.json.Decoder(_Line).decode
    for file in sorted(log.parent.glob(f"{log.name}*")):
        *whole, _unfinished = file.read_bytes().split(b"\n")
        for line in map(decode, whole):
            yield datetime.fromisoformat(line.time).timestamp(), float(line.duration_us or 0) / 1e3
