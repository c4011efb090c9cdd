"""The load of everything now, that of a deployment over time, and metrics for Prometheus: `service` offers them."""

from __future__ import annotations

import asyncio
import math
from typing import NamedTuple

from dockyard.spec.status import Load, LoadHistory, LoadStep, ReplicaLoad, Top
from dockyard.yard.parts import Parts
from dockyard.yard.points import Metric, Subject
from dockyard.yard.records import DeploymentSnapshot, ReplicaRecord
from dockyard.yard.sampler import EVERY
from dockyard.yard.series import FINE_S, KEPT_S, MINUTE, Answer

STEPS = (2, 10, 30, 60, 120, 300, 600, 900, 1800)
"""Steps that people read easily, in seconds."""
MOST_STEPS = 60
"""With a step that nobody asked for. Asked for, there are at most `MOST_POINTS`: every look of an hour."""
MOST_POINTS = FINE_S // STEPS[0]
_MS = 1000


class Measuring:
    """The operations about load."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def top(self) -> Top:
        """The load of everything now, by the last look."""
        snapshots = self._parts.store.snapshot()
        loads = tuple(self._deployment_load(each) for each in snapshots)
        return Top(at=self._parts.store.now(), window_s=EVERY, deployments=loads)

    async def load_history(self, name: str, since_s: int, step_s: int) -> LoadHistory:
        """One deployment's load over the last `since_s` seconds; UnknownInYardError.

        `step_s`: 0 is as it is easily read. Steps under a minute are for the last hour.
        """
        self._parts.store.deployment(name)
        looking = self._parts.looking
        span = span_of(looking.clock(), since_s, step_s)
        answer = await asyncio.to_thread(looking.series.query, Subject(name), tuple(Metric), *span)
        return LoadHistory(deployment=name, step_s=answer.step, steps=_steps(answer))

    async def metrics(self) -> bytes:
        """Prometheus text format 0.0.4."""
        looking = self._parts.looking
        text = await asyncio.to_thread(looking.metrics.text, looking.sampler.pages)
        return text.encode()

    def _deployment_load(self, snapshot: DeploymentSnapshot) -> Load:
        name = snapshot.deployment.name
        seen = self._parts.looking.latest(Subject(name))
        return Load(
            deployment=name,
            requests_per_second=seen.get(Metric.REQUESTS),
            errors_per_second=seen.get(Metric.ERRORS),
            p50_ms=_times(seen.get(Metric.P50)),
            p99_ms=_times(seen.get(Metric.P99)),
            in_flight=round(seen.get(Metric.IN_FLIGHT) or 0),
            cpus=seen.get(Metric.CPU),
            memory=_whole(seen.get(Metric.MEMORY)),
            replicas=tuple(self._replica_load(snapshot, each) for each in snapshot.replicas),
        )

    def _replica_load(self, snapshot: DeploymentSnapshot, record: ReplicaRecord) -> ReplicaLoad:
        seen = self._parts.looking.latest(Subject(record.deployment, record.revision, record.id))
        return ReplicaLoad(
            id=record.id,
            revision=record.revision,
            phase=record.phase,
            requests_per_second=seen.get(Metric.REQUESTS),
            in_flight=round(seen.get(Metric.IN_FLIGHT) or 0),
            cpus=seen.get(Metric.CPU),
            memory=_whole(seen.get(Metric.MEMORY)),
            memory_limit=snapshot.revisions[record.revision].memory,
        )


class Span(NamedTuple):
    """From when to when (s since 1970), in steps of how many seconds."""

    since: float
    until: float
    step: int


def span_of(now: float, since_s: int, step_s: int) -> Span:
    """The last `since_s` seconds in steps that begin at multiples of their length; the last one still runs."""
    step = step_s or next((each for each in STEPS if since_s <= each * MOST_STEPS), STEPS[-1])
    step = max(step, STEPS[0] if since_s <= FINE_S else MINUTE)
    kept = FINE_S if step < MINUTE else KEPT_S
    count = max(1, min(math.ceil(since_s / step), kept // step))
    until = math.ceil(now / step) * step
    return Span(until - count * step, until, step)


def _steps(answer: Answer) -> tuple[LoadStep, ...]:
    rows = zip(*answer.values.values(), strict=True)
    steps = []
    for number, row in enumerate(rows):
        seen = dict(zip(answer.values, row, strict=True))
        steps.append(
            LoadStep(
                at=answer.start + number * answer.step,
                requests_per_second=seen[Metric.REQUESTS],
                errors_per_second=seen[Metric.ERRORS],
                p50_ms=_times(seen[Metric.P50]),
                p99_ms=_times(seen[Metric.P99]),
                in_flight=seen[Metric.IN_FLIGHT],
                ready=seen[Metric.READY],
                cpus=seen[Metric.CPU],
                memory=_whole(seen[Metric.MEMORY]),
            )
        )
    return tuple(steps)


def _times(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * _MS


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
