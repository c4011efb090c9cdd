"""Latency as counts in buckets: differences of cumulative histograms, one set of bounds, and quantiles.

berth and Envoy have buckets of their own, so both are brought to `BOUNDS`, which contain those of both; only then can
counts be added up, over time and over replicas. (Percentiles cannot: their mean is nobody's percentile.) Pure; called
by `readings`, `points` and `receipt`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0),
)
"""Upper bounds in seconds; one more bucket, for what took longer, follows them."""

Buckets = Mapping[float, float]
"""Upper bound in seconds (the last is infinity) -> how many took at most so long, since the server started."""


def since(before: Buckets, now: Buckets) -> Buckets:
    """What came between two readings, cumulative too. A count that fell means that its server began anew."""
    if any(now.get(bound, 0) < count for bound, count in before.items()):
        return now
    return {bound: count - before.get(bound, 0) for bound, count in now.items()}


def spread(buckets: Buckets) -> list[int]:
    """How many fell into each bucket of `BOUNDS`: len(BOUNDS) + 1 whole numbers.

    Where the bounds differ, what is in one bucket counts as evenly spread over it, as Prometheus has it.
    """
    known = sorted((bound, count) for bound, count in buckets.items() if not math.isnan(bound))
    if not known:
        return [0] * (len(BOUNDS) + 1)
    at = [bound for bound, _ in known]
    cumulative = [round(_cumulative(known, at, bound)) for bound in BOUNDS] + [round(known[-1][1])]
    return [max(0, later - earlier) for earlier, later in pairwise([0, *cumulative])]


def _cumulative(known: Sequence[tuple[float, float]], at: Sequence[float], bound: float) -> float:
    """How many took at most `bound` seconds."""
    place = bisect.bisect_left(at, bound)
    if place == len(known):
        return known[-1][1]
    upper, count = known[place]
    lower, below = known[place - 1] if place else (0.0, 0.0)
    if upper == bound:
        return count
    return below if math.isinf(upper) else below + (count - below) * (bound - lower) / (upper - lower)


def quantile(counts: Sequence[float], share: float) -> float | None:
    """The latency in seconds that this share (0 to 1) of the counted requests kept; None when none was counted.

    `counts` are those of `spread`. Evenly spread within a bucket; of the last bucket, only its lower bound is known.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank, seen = share * total, 0.0
    for place, count in enumerate(counts):
        if count and seen + count >= rank:
            if place == len(BOUNDS):
                return BOUNDS[-1]
            lower = BOUNDS[place - 1] if place else 0.0
            return lower + (BOUNDS[place] - lower) * max(0.0, rank - seen) / count
        seen += count
    return BOUNDS[-1]
