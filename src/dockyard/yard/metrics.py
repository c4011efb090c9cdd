"""What the yard counts of itself, and the one page at its /metrics: gateway, replicas, yard.

The reconciler, the API and the audit log call the methods that count; the API's `/metrics` calls `text`, in a thread.
The only module that knows `prometheus_client`. Every label of the yard's own has at most `MAX_VALUES` values, and the
page at most `page.MAX_SERIES` series, of which a replica has at most `exposition.REPLICA.samples`.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import dockyard
from dockyard.yard import sampler
from dockyard.yard.exposition import GATEWAY, Exposition, Sample, read
from dockyard.yard.page import Page
from dockyard.yard.readings import RevisionName, plain, plain_name
from dockyard.yard.series import Series
from dockyard.yard.state import Step

MAX_VALUES = 100
OTHER = "other"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_OWN, _GATEWAY = "dockyard_", "envoy_"
_COPIES = ("envoy_cluster_external_", "envoy_cluster_internal_")


class Metrics:
    """The yard's own counts. `store_bytes` is asked when the page is made."""

    def __init__(self, store_bytes: Callable[[], float] = float) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else a series of its own for each
        self._registry = registry = CollectorRegistry()
        self._values: dict[str, set[str]] = {}
        self._reconcile = Histogram(
            "dockyard_reconcile_seconds", "One round of observe, plan, act.", registry=registry, buckets=_SECONDS
        )
        self._plan = Histogram("dockyard_plan_seconds", "The plan of one round.", registry=registry, buckets=_SECONDS)
        self._steps = Counter("dockyard_steps_total", "Steps carried out.", ["kind"], registry=registry)
        self._events = Counter("dockyard_events_total", "Events told.", ["kind"], registry=registry)
        self._rollouts = Counter("dockyard_rollouts_total", "Rollouts that ended.", ["outcome"], registry=registry)
        self._requests = Counter(
            "dockyard_api_requests_total", "Requests to the API.", ["route", "status"], registry=registry
        )
        self._entries = Counter("dockyard_audit_entries_total", "Audit entries written.", registry=registry)
        Info("dockyard", "What runs; always 1.", registry=registry).info({"version": dockyard.__version__})
        ProcessCollector(namespace="dockyard", registry=registry)
        registry.register(_Asked(store_bytes))

    def reconciled(self, seconds: float) -> None:
        """One round of the control loop was done."""
        self._reconcile.observe(seconds)

    def planned(self, seconds: float) -> None:
        """The plan of one round was made."""
        self._plan.observe(seconds)

    def stepped(self, step: Step) -> None:
        """A step of a plan was carried out."""
        self._steps.labels(type(step).__name__.lower()).inc()

    def told(self, kind: str) -> None:
        """An event was told."""
        self._events.labels(self._bounded("event", kind)).inc()

    def rolled_out(self, outcome: str) -> None:
        """A rollout ended."""
        self._rollouts.labels(self._bounded("outcome", outcome)).inc()

    def answered(self, route: str, status: int) -> None:
        """The API answered; `route` is the pattern, not the path."""
        self._requests.labels(self._bounded("route", route), self._bounded("status", str(status))).inc()

    def audited(self) -> None:
        """An audit entry was written."""
        self._entries.inc()

    def watch(self, looking: sampler.Sampler, series: Series) -> None:
        """Tell of the sampler and the time series too."""
        self._registry.register(_Looking(looking, series))

    def text(self, pages: sampler.Pages | None = None) -> str:
        """The page: what gateway and replicas said last, and the yard's own counts. Takes milliseconds a replica."""
        pages = pages or sampler.Pages()
        page = Page()
        for labels, exposition in _of_gateway(read(pages.gateway, GATEWAY)):
            page.add(exposition, labels, (_OWN,))
        for subject, text in pages.replicas.items():
            labels = {"deployment": subject.deployment, "revision": str(subject.revision), "replica": subject.replica}
            page.add(read(text), labels, (_OWN, _GATEWAY))
        page.add(_exposed(_replicas(pages.targets)), {})
        page.add(read(generate_latest(self._registry).decode(), GATEWAY), {})
        page.add(_exposed(_left_out(page.left_out)), {})
        return page.text()

    def _bounded(self, label: str, value: str) -> str:
        """The value, or `other` when the label has too many."""
        known = self._values.setdefault(label, set())
        if value not in known and len(known) >= MAX_VALUES:
            return OTHER
        known.add(value)
        return value


def _of_gateway(page: Exposition) -> Iterator[tuple[Mapping[str, str], Exposition]]:
    """Envoy's samples by the labels of the revision that they are about.

    Left out are the copies that Envoy counts apart for internal and external callers.
    """
    found: dict[RevisionName | None, list[Sample]] = defaultdict(list)
    for raw in page.samples:
        sample, revision = plain(raw)
        if not sample.name.startswith(_COPIES):
            found[revision].append(sample)
    kinds = {plain_name(name): kind for name, kind in page.kinds.items()}
    for revision, samples in found.items():
        labels = {"deployment": revision.deployment, "revision": revision.label} if revision else {}
        yield labels, Exposition(tuple(samples), kinds, page.helps)


def _replicas(targets: Iterable[sampler.Target]) -> Iterator[Metric]:
    family = GaugeMetricFamily("dockyard_replicas", "Replicas by phase.", labels=["deployment", "revision", "phase"])
    counts = Counts((each.deployment, str(each.revision), each.phase.value) for each in targets)
    for labels, count in sorted(counts.items()):
        family.add_metric(labels, count)
    yield family


def _left_out(counts: Mapping[str, int]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "dockyard_metrics_left_out", "Lines of gateway and replicas that this page leaves out.", labels=["reason"]
    )
    for reason in ("invalid", "reserved", "clash", "duplicate", "limit"):
        family.add_metric([reason], counts[reason])
    yield family


def _exposed(families: Iterable[Metric]) -> Exposition:
    found = list(families)
    samples = tuple(Sample(each.name, each.labels, each.value) for family in found for each in family.samples)
    return Exposition(
        samples,
        {family.name: family.type for family in found},
        {family.name: family.documentation for family in found},
    )


class _Asked(Collector):
    """What is asked when the page is made."""

    def __init__(self, store_bytes: Callable[[], float]) -> None:
        self._store_bytes = store_bytes

    def collect(self) -> Iterator[Metric]:
        """The families."""
        yield GaugeMetricFamily("dockyard_store_bytes", "Bytes of the yard's store.", value=self._store_bytes())


class _Watched(Protocol):
    """What a sampler counts."""

    counts: sampler.Counts


class _Looking(Collector):
    """What sampler and series count."""

    def __init__(self, looking: _Watched, series: Series) -> None:
        self._looking = looking
        self._series = series

    def collect(self) -> Iterator[Metric]:
        """The families."""
        counts = self._looking.counts
        for name, text, count in (
            ("dockyard_sampler_ticks", "Looks at gateway and replicas.", counts.ticks),
            ("dockyard_sampler_skipped_ticks", "Looks left out because one took too long.", counts.skipped),
            ("dockyard_sampler_failed_ticks", "Looks that broke off.", counts.failed),
            ("dockyard_sampler_unanswered", "Pages that did not come in time.", counts.unanswered),
            ("dockyard_series_dropped", "Points of the time series that were dropped.", self._series.lost),
        ):
            yield CounterMetricFamily(name, text, value=count)
        yield GaugeMetricFamily("dockyard_sampler_seconds", "How long the last look took.", value=counts.seconds)
        yield GaugeMetricFamily("dockyard_series_bytes", "Bytes of the time series.", value=self._series.bytes)
