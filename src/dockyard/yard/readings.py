"""What the gateway and a replica have counted so far, taken out of their pages at /metrics.

The gateway counts for each revision (its cluster), and apart what several served as one (the pool); berth counts for
itself. Each becomes a `Reading`, and two readings of one subject a `Point`. Pure; called by `sampler` and `receipt`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dockyard.yard.exposition import Exposition, Sample
from dockyard.yard.latency import Buckets

_CLUSTER = "envoy_cluster_name"
_DOTTED = re.compile(r"envoy_cluster_([0-9]+)_(\w+)")
_NUMBER = re.compile(r"[0-9]{1,9}")
POOL = "pool"
"""What the gateway calls, in place of a revision, several that serve as one."""
POOLED = -1
"""The same as a number."""
_CLUSTER_NAME = re.compile(rf"([a-z0-9-]+)[./_]([0-9]{{1,9}}|{POOL})")

_COMPLETED = "envoy_cluster_upstream_rq_xx"
_ACTIVE = ("envoy_cluster_upstream_rq_active", "envoy_cluster_upstream_rq_pending_active")
_TIME = "envoy_cluster_upstream_rq_time"

GATEWAY = frozenset({_COMPLETED, *_ACTIVE, f"{_TIME}_sum", f"{_TIME}_bucket"})
"""The names that `of_gateway` reads, of clusters whose names have no dot."""

BERTH = frozenset(
    {
        *(f"berth_request_seconds_{part}" for part in ("bucket", "sum")),
        *("berth_requests_total", "berth_pending_requests", "nv_inference_pending_request_count"),
    }
)
"""The names that `of_replica` reads."""


class RevisionName(NamedTuple):
    """One revision of one deployment, or its pool."""

    deployment: str
    revision: int

    @property
    def label(self) -> str:
        """The revision as metrics name it."""
        return POOL if self.revision == POOLED else str(self.revision)


@dataclass(frozen=True)
class Reading:
    """Counts since a server started, and what is in it now. `seconds`: the time that all requests took together."""

    requests: float = 0
    errors: float = 0
    """Of the requests, those that failed for the server's sake: status 500 and up."""
    in_flight: float = 0
    queue: float = 0
    """Of those in flight, how many wait for the model (berth) or for a connection (gateway)."""
    seconds: float = 0
    buckets: Buckets = field(default_factory=dict, hash=False)


def plain(sample: Sample) -> tuple[Sample, RevisionName | None]:
    """A sample of Envoy's under its plain name, and the revision that it is about, which its labels no longer say.

    The gateway has Envoy label its clusters by deployment and revision. Without that, Envoy takes what follows the
    first dot of a cluster's name for part of the metric's: of `iris.2` it tells
    `envoy_cluster_2_upstream_rq_total{envoy_cluster_name="iris"}`.
    """
    labels = dict(sample.labels)
    cluster = labels.get(_CLUSTER, "")
    deployment, number = labels.get("deployment", ""), labels.get("revision", "")
    if dotted := _DOTTED.fullmatch(sample.name):
        deployment, number = cluster, dotted[1]
    elif not deployment and (found := _CLUSTER_NAME.fullmatch(cluster)):
        deployment, number = found.groups()
    if not deployment or not (number == POOL or _NUMBER.fullmatch(number)):
        return sample, None
    for name in (_CLUSTER, "deployment", "revision"):
        labels.pop(name, None)
    revision = POOLED if number == POOL else int(number)
    return Sample(plain_name(sample.name), labels, sample.value), RevisionName(deployment, revision)


def plain_name(name: str) -> str:
    """The name of a family of Envoy's, without the number of a revision."""
    dotted = _DOTTED.fullmatch(name)
    return f"envoy_cluster_{dotted[2]}" if dotted else name


def of_gateway(page: Exposition) -> Mapping[RevisionName, Reading]:
    """What the gateway has counted for each revision that it knows, and for each pool."""
    found: dict[RevisionName, list[Sample]] = defaultdict(list)
    for raw in filter(_credible, page.samples):
        sample, revision = plain(raw)
        if revision is not None:
            found[revision].append(sample)
    return {revision: _cluster(samples) for revision, samples in found.items()}


def _cluster(samples: Iterable[Sample]) -> Reading:
    requests = errors = in_flight = queue = seconds = 0.0
    buckets: dict[float, float] = {}
    for name, labels, value in samples:
        if name == _COMPLETED:
            requests += value
            errors += value if labels.get("envoy_response_code_class") == "5" else 0
        elif name in _ACTIVE:
            in_flight += value
            queue += value if name == _ACTIVE[1] else 0
        elif name == f"{_TIME}_sum":
            seconds += value / 1e3
        elif name == f"{_TIME}_bucket":
            _count(buckets, labels, value, 1e3)
    return Reading(requests, errors, in_flight, queue, seconds, buckets)


def of_replica(page: Exposition) -> Reading | None:
    """What berth has counted, of all its models; None for a server that is not berth."""
    requests = errors = in_flight = queue = seconds = 0.0
    buckets: dict[float, float] = {}
    known = False
    for name, labels, value in filter(_credible, page.samples):
        if name == "berth_requests_total" and "model" in labels:
            requests += value
            errors += value if labels.get("status", "") >= "500" else 0
        elif name == "berth_pending_requests":
            known = True
            in_flight += value
        elif name == "nv_inference_pending_request_count":
            queue += value
        elif name == "berth_request_seconds_sum":
            seconds += value
        elif name == "berth_request_seconds_bucket":
            _count(buckets, labels, value, 1)
    return Reading(requests, errors, in_flight, queue, seconds, buckets) if known else None


def _credible(sample: Sample) -> bool:
    """Whether this can be a count or a time: a server that is not ours may say anything."""
    return 0 <= sample.value < 1e15


def _count(buckets: dict[float, float], labels: Mapping[str, str], value: float, scale: float) -> None:
    """Add a bucket's count under its bound in seconds."""
    try:
        bound = float(labels["le"]) / scale
    except (KeyError, ValueError):
        return
    if bound > 0:
        buckets[bound] = buckets.get(bound, 0) + value
