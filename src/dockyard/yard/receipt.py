"""The figures of a rollout's receipt, from what the gateway had counted at its moments.

The reconciler keeps the gateway's page when a rollout starts and takes another when it ends; what came between is a
difference of counters. Pure; pages are those of `sampler.gateway_figures`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dockyard.yard.exposition import Exposition
from dockyard.yard.latency import quantile, since, spread
from dockyard.yard.readings import Reading, RevisionName, of_gateway


@dataclass(frozen=True)
class Figures:
    """One revision between two moments. Latency in seconds, None without requests.

    `whole` is False when the gateway began to count anew in between, so that only what came after that is in it.
    """

    requests: int = 0
    errors: int = 0
    in_flight: int = 0
    """At the second moment."""
    p50: float | None = None
    p99: float | None = None
    whole: bool = True


@dataclass(frozen=True)
class Receipt:
    """A rollout in figures: the old revision before it, and both while it went on. `old` is None for a first one."""

    before: Figures | None
    old: Figures | None
    new: Figures


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
        p50=quantile(counts, 0.5),
        p99=quantile(counts, 0.99),
        whole=not anew,
    )
