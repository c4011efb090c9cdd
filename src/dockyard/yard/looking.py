"""The yard's eyes: the sampler with its time series and metrics, fed by the fleet and the gateway.

`run` starts it beside the reconciler; `measuring` answers `top` and `/metrics` from it. Losing it loses no state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dockyard.engines.base import Container
from dockyard.engines.servers import metrics_page
from dockyard.gateway.base import Gateway
from dockyard.yard.fleet import Fleet
from dockyard.yard.metrics import Metrics
from dockyard.yard.points import Metric, Subject
from dockyard.yard.records import ReplicaRecord
from dockyard.yard.sampler import Sampler, Sources, Target
from dockyard.yard.scrape import Page
from dockyard.yard.series import Series
from dockyard.yard.series_file import SeriesFile
from dockyard.yard.store import FILE_NAME, Store

SERIES = "series.db"


class Looking:
    """What is seen of gateway and replicas. `metrics` counts what the yard itself does."""

    def __init__(
        self, folder: Path, store: Store, fleet: Fleet, gateway: Gateway, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._fleet = fleet
        file = SeriesFile(folder / SERIES, lambda kind, text: _event(store, kind, text))
        self.series = Series(file)
        self.clock = clock
        """By which the series is kept: seconds since 1970."""
        self.sampler = Sampler(Sources(self._targets, gateway.metrics), self.series, clock=clock)
        self.metrics = Metrics(lambda: float((folder / FILE_NAME).stat().st_size))
        self.metrics.watch(self.sampler, self.series)

    def latest(self, subject: Subject) -> dict[Metric, float | None]:
        """Every metric of one subject, as of the last look; empty when it was not seen."""
        return dict(self.series.latest().get(subject, {}))

    def close(self) -> None:
        """Let go of the file."""
        self.series.close()

    async def _targets(self) -> Sequence[Target]:
        return [self._target(record) for record in self._store.replicas()]

    def _target(self, record: ReplicaRecord) -> Target:
        container = self._fleet.container(record.id)
        return Target(
            deployment=record.deployment,
            revision=record.revision,
            replica=record.id,
            phase=record.phase,
            page=self._page(record, container) if container else Page(),
            pid=container.pid if container else None,
        )

    def _page(self, record: ReplicaRecord, container: Container) -> Page:
        """Where it has its metrics; nowhere once it is being stopped, for a connection would wait there in vain."""
        if self._fleet.busy(record.id):
            return Page()
        if container.tcp is None:
            return Page(container.socket)
        there = metrics_page(self._store.revision(record.deployment, record.revision).settings.server)
        return Page(host=container.tcp.host, port=there.port or container.tcp.port, path=there.path)


def _event(store: Store, kind: str, text: str) -> None:
    store.events.add(kind, text)
