"""The figures of a rollout's receipt, from what the gateway had counted at its moments.

The reconciler keeps the gateway's page when a rollout starts and takes another when it ends; what came between is a
difference of counters. Pure; pages are those of `sampler.gateway_figures`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest

from dockyard.yard.exposition import Exposition
from dockyard.yard.latency import quantile, since, spread
from dockyard.yard.readings import POOLED, Reading, RevisionName, of_gateway


@dataclass(frozen=True)
class Figures:
    """One revision between two moments, or what several served as one.

    `latency`: how many requests fell into each bucket, as `latency.spread` counts; empty without any. `whole` is False
    when the gateway began to count anew in between, so that only what came after that is in it.
    """

    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    """At the second moment."""
    latency: tuple[int, ...] = ()
    whole: bool = True

    def quantile(self, share: float) -> float | None:
        """The latency in seconds that this share (0 to 1) of the requests kept; None without requests."""
        return quantile(self.latency, share)

    def joined(self, other: Figures) -> Figures:
        """Both together."""
        return Figures(
            self.requests + other.requests,
            self.errors + other.errors,
            self.in_flight + other.in_flight,
            tuple(one + another for one, another in zip_longest(self.latency, other.latency, fillvalue=0)),
            self.whole and other.whole,
        )


@dataclass(frozen=True)
class Receipt:
    """A rollout in figures: the old revision before it, and while it went on that, the new one, and both as one.

    `old` is None for a first revision.
    """

    before: Figures | None
    old: Figures | None
    new: Figures
    shared: Figures = field(default_factory=Figures)


def receipt(
    deployment: str,
    source: int | None,
    target: int,
    start: Exposition,
    end: Exposition,
    earlier: Exposition | None = None,
) -> Receipt:
    """The figures of a rollout from revision `source` to `target`, which lasted from `start` to `end`.

    `before` covers the time from `earlier` to `start`; without `earlier`, all that the gateway remembers.
    """
    readings = of_gateway(start), of_gateway(end)
    new = RevisionName(deployment, target)
    if source is None:
        return Receipt(None, None, between(readings[0].get(new), readings[1].get(new)))
    old = RevisionName(deployment, source)
    first = of_gateway(earlier).get(old) if earlier is not None else None
    return Receipt(
        before=between(first, readings[0].get(old)),
        old=between(readings[0].get(old), readings[1].get(old)),
        new=between(readings[0].get(new), readings[1].get(new)),
        shared=between(*(each.get(RevisionName(deployment, POOLED)) for each in readings)),
    )


def between(first: Reading | None, second: Reading | None) -> Figures:
    """What was counted between two readings; a revision that the gateway does not know has counted nothing.

    A revision that it has forgotten by the second moment counts as far as it was seen: nothing.
    """
    start, end = first or Reading(), second or Reading()
    anew = end.requests < start.requests
    base = Reading() if anew else start
    counts = spread(since(base.buckets, end.buckets))
    return Figures(
        requests=round(end.requests - base.requests),
        errors=round(max(0.0, end.errors - base.errors)),
        in_flight=round(end.in_flight),
        latency=tuple(counts) if any(counts) else (),
        whole=not anew,
    )
