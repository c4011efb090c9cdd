"""The load of everything, and metrics for Prometheus. `service` offers both to the API."""

from __future__ import annotations

import asyncio

from dockyard.spec.status import Load, ReplicaLoad, Top
from dockyard.yard.parts import Parts
from dockyard.yard.points import Metric, Subject
from dockyard.yard.records import DeploymentSnapshot, ReplicaRecord
from dockyard.yard.sampler import EVERY

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


def _times(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * _MS


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
