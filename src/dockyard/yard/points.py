"""What happened at one subject in some seconds: a row of amounts, so that everything can be added up and divided.

Every metric is an amount over time: requests are a count, memory is byte-seconds, requests in flight are
request-seconds. A row divided by its seconds gives values, rows of one subject add up over time, and rows of several
subjects of the same moment add up to their parent's. NaN stands for what is not known. Pure; `sampler` makes rows,
`series` keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dockyard.yard.latency import BOUNDS, quantile, since, spread
from dockyard.yard.readings import Reading

Row = NDArray[np.float64]
"""`WIDTH` amounts: the plain ones in the order of `_PLAIN`, then a count for each bucket of latency."""


class Subject(NamedTuple):
    """What a row is about: a deployment (revision 0), a revision of it, its pool (-1) or a replica."""

    deployment: str
    revision: int = 0
    replica: str = ""


class Metric(StrEnum):
    """What can be asked for, with its unit."""

    REQUESTS = "requests"
    """Answered, a second."""
    ERRORS = "errors"
    """Answered with status 500 or above, a second."""
    IN_FLIGHT = "in_flight"
    """Requests that were being answered or waiting: the average over time."""
    QUEUE = "queue"
    """Of those, the ones that waited."""
    CPU = "cpu"
    """Processors used."""
    MEMORY = "memory"
    """Bytes resident."""
    READY = "ready"
    """Replicas that were ready."""
    P50 = "p50"
    """Seconds in which half of the requests were answered."""
    P90 = "p90"
    P99 = "p99"


_PLAIN = (
    *(Metric.REQUESTS, Metric.ERRORS, Metric.IN_FLIGHT, Metric.QUEUE),
    *(Metric.CPU, Metric.MEMORY, Metric.READY),
)
_COLUMN = {metric: column for column, metric in enumerate(_PLAIN)}
_SHARES = {Metric.P50: 0.5, Metric.P90: 0.9, Metric.P99: 0.99}
_BUCKETS = slice(len(_PLAIN), None)
WIDTH = len(_PLAIN) + len(BOUNDS) + 1

_OWN = [_COLUMN[metric] for metric in (Metric.CPU, Metric.MEMORY, Metric.QUEUE)]


@dataclass(frozen=True)
class Usage:
    """What a replica's processes used: processor seconds since they started, and bytes that are resident now."""

    cpu_seconds: float
    resident_bytes: float


def unknown() -> Row:
    """A row that says nothing."""
    return np.full(WIDTH, np.nan)


def of_requests(before: Reading, now: Reading, seconds: float) -> Row:
    """What a server counted between two readings that are `seconds` apart; a count that fell means it began anew."""
    row = unknown()
    anew = now.requests < before.requests
    base = Reading() if anew else before
    row[_COLUMN[Metric.REQUESTS]] = requests = now.requests - base.requests
    row[_COLUMN[Metric.ERRORS]] = min(requests, max(0.0, now.errors - base.errors))
    row[_COLUMN[Metric.IN_FLIGHT]] = _in_flight(base, now, seconds)
    row[_COLUMN[Metric.QUEUE]] = (base.queue + now.queue) / 2 * seconds
    row[_BUCKETS] = spread(since(base.buckets, now.buckets))
    return row


def _in_flight(before: Reading, now: Reading, seconds: float) -> float:
    """Request-seconds between two readings.

    By Little's law the time that finished requests took together is the integral of those in flight, exact as long as
    requests are short next to the interval. Where they are not, what was seen at both ends says more.
    """
    finished, took = now.requests - before.requests, now.seconds - before.seconds
    if finished > 0 and 0 < took / finished <= seconds / 2:
        return took
    return (before.in_flight + now.in_flight) / 2 * seconds


def of_usage(before: Usage, now: Usage, seconds: float) -> Row:
    """What a replica's processes used between two looks that are `seconds` apart."""
    row = unknown()
    base = 0.0 if now.cpu_seconds < before.cpu_seconds else before.cpu_seconds
    row[_COLUMN[Metric.CPU]] = now.cpu_seconds - base
    row[_COLUMN[Metric.MEMORY]] = (before.resident_bytes + now.resident_bytes) / 2 * seconds
    return row


def add_ready(row: Row, replicas: int, seconds: float) -> None:
    """Write down how many replicas are ready."""
    row[_COLUMN[Metric.READY]] = replicas * seconds


def add_own(row: Row, replicas: Sequence[Row]) -> None:
    """Add to a revision's row what only its replicas know: processors, memory, their queues."""
    row[_OWN] = together([row, *replicas])[_OWN]


def together(rows: Sequence[Row]) -> Row:
    """Rows of several subjects, of the same seconds, as one; what none of them knows is unknown."""
    stacked = np.stack(rows)
    known = ~np.isnan(stacked)
    return np.where(known.any(axis=0), np.where(known, stacked, 0).sum(axis=0), np.nan)


def over_time(rows: NDArray[np.floating], seconds: NDArray[np.floating]) -> Row:
    """Rows (n x WIDTH) of one subject as one row that lasts as long as all of them.

    What is unknown in some of them counts as what it was on average in the others.
    """
    known = ~np.isnan(rows)
    seen = np.where(known, seconds[:, None], 0).sum(axis=0)
    amount = np.where(known, rows, 0).sum(axis=0, dtype=np.float64)
    scale = np.divide(seconds.sum(), seen, out=np.full(rows.shape[1], np.nan), where=seen > 0)
    result: Row = amount * scale
    return result


def value(row: Row, seconds: float, metric: Metric) -> float | None:
    """One metric of a row, in its unit; None when it is not known."""
    share = _SHARES.get(metric)
    if share is None:
        amount = float(row[_COLUMN[metric]])
        return None if np.isnan(amount) or seconds <= 0 else amount / seconds
    counts = row[_BUCKETS]
    return None if np.isnan(counts).any() else quantile(counts.tolist(), share)
