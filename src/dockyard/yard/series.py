"""The built-in time series: the last 24 hours of every deployment, revision and replica, for people and the autoscaler.

`sampler` records a tick every two seconds. The ticks of the minute that runs are in memory; when it ends they are
written, each subject's as one chunk of points (kept for an hour) and as one point (kept for a day), both compressed. So
the last minute is lost with the process, and nothing else. `measuring` asks `query` and `latest`, for the command line
and the dashboard; the autoscaler asks `average`. Recording and asking may happen in different threads.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dockyard.yard.points import WIDTH, Metric, Row, Subject, over_time, value
from dockyard.yard.series_file import SeriesFile
from dockyard.yard.windows import Ring

MINUTE = 60
FINE_S = 3_600
KEPT_S = 86_400
MAX_SUBJECTS = 5_000
MAX_POINTS = 2_000
WINDOWED = (Metric.IN_FLIGHT, Metric.REQUESTS)
"""What the autoscaler can ask averages of."""

_FINE, _ROLLED = 2, 60  # spans of chunks
_KEPT = {_FINE: FINE_S, _ROLLED: KEPT_S}
_HEAD = 2  # columns before the amounts: seconds since the minute began, and how many seconds the point lasts

_Table = NDArray[np.float64]
"""Points of one subject, oldest first: when (s since 1970), how long (s), and the amounts."""


@dataclass(frozen=True)
class Tick:
    """What happened in the `seconds` that end at `at` (s since 1970) and at `moment` (of a clock that never jumps)."""

    at: float
    moment: float
    seconds: float
    rows: Mapping[Subject, Row] = field(hash=False)

    @property
    def minute(self) -> int:
        """When its minute began."""
        return int(self.at // MINUTE) * MINUTE


@dataclass(frozen=True)
class Answer:
    """Values by metric, every `step` seconds from `start` on; None where nothing is known.

    The step may be longer than asked.
    """

    start: float
    step: float
    values: Mapping[Metric, tuple[float | None, ...]] = field(hash=False)


class Series:
    """The time series in `file`."""

    def __init__(self, file: SeriesFile) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._ticks: list[Tick] = []  # of the minute that runs
        self._leaving: list[Tick] = []  # of the one that is being written
        self._rings: dict[Subject, dict[Metric, Ring]] = {}
        self.dropped = 0
        """Rows beyond `MAX_SUBJECTS` in one tick."""

    def record(self, tick: Tick) -> None:
        """Take a tick in; at the end of a minute this writes to the disk, so not for the thread of the event loop."""
        tick = self._bounded(tick)
        with self._lock:
            ended = bool(self._ticks) and self._ticks[-1].minute != tick.minute
            if ended:
                self._leaving, self._ticks = self._ticks, []
            self._ticks.append(tick)
            self._fill_rings(tick)
        if ended:
            self._write(self._leaving)
            self._leaving = []

    def query(self, subject: Subject, metrics: Sequence[Metric], since: float, until: float, step: float = 0) -> Answer:
        """Some metrics of one subject between two times (s since 1970), every `step` seconds.

        Steps under a minute are there for the last hour. At most `MAX_POINTS` of a metric; the step grows to keep that.
        """
        since = max(since, until - KEPT_S)
        fine = step < MINUTE and since >= until - FINE_S
        step = max(step, _FINE if fine else MINUTE, (until - since) / MAX_POINTS)
        table = self._table(subject, _FINE if fine else _ROLLED, since, until)
        count = max(0, int(np.ceil((until - since) / step)))
        places = np.ceil((table[:, 0] - since) / step).astype(int) - 1
        values: dict[Metric, list[float | None]] = {metric: [None] * count for metric in metrics}
        for place in np.unique(places):
            part = table[places == place]
            row, seconds = over_time(part[:, _HEAD:], part[:, 1]), float(part[:, 1].sum())
            for metric, found in values.items():
                found[place] = value(row, seconds, metric)
        return Answer(since, step, {metric: tuple(found) for metric, found in values.items()})

    def latest(self) -> Mapping[Subject, Mapping[Metric, float | None]]:
        """Every metric of everything, as of the last tick."""
        with self._lock:
            tick = self._ticks[-1] if self._ticks else None
        if tick is None:
            return {}
        return {
            subject: {metric: value(row, tick.seconds, metric) for metric in Metric}
            for subject, row in tick.rows.items()
        }

    def average(self, subject: Subject, metric: Metric, moment: float, window: int) -> float | None:
        """One of `WINDOWED` over the last `window` (at most 60) seconds; None when nothing is known of them."""
        with self._lock:
            rings = self._rings.get(subject)
            return rings[metric].average(moment, window) if rings else None

    @property
    def bytes(self) -> int:
        """What the series takes on the disk."""
        return self._file.bytes

    @property
    def lost(self) -> int:
        """Rows and chunks that were dropped, because they were too many or the disk refused them."""
        return self.dropped + self._file.dropped

    def close(self) -> None:
        """Let go of the file; the minute that runs is not kept."""
        self._file.close()

    def _bounded(self, tick: Tick) -> Tick:
        beyond = len(tick.rows) - MAX_SUBJECTS
        if beyond <= 0:
            return tick
        self.dropped += beyond
        # Deployments first, replicas last.
        kept = sorted(tick.rows, key=lambda subject: (bool(subject.replica), subject.revision > 0))[:MAX_SUBJECTS]
        return Tick(tick.at, tick.moment, tick.seconds, {subject: tick.rows[subject] for subject in kept})

    def _fill_rings(self, tick: Tick) -> None:
        windowed = [subject for subject in tick.rows if not subject.replica]
        for subject in windowed:
            if subject not in self._rings:
                self._rings[subject] = {metric: Ring() for metric in WINDOWED}
            for metric, ring in self._rings[subject].items():
                found = value(tick.rows[subject], tick.seconds, metric)
                if found is not None:
                    ring.add(tick.moment, tick.seconds, found)
        for gone in self._rings.keys() - set(windowed):
            del self._rings[gone]

    def _write(self, ticks: Sequence[Tick]) -> None:
        subjects = {subject for tick in ticks for subject in tick.rows}
        tables = {subject: _of_subject(ticks, subject) for subject in subjects}
        chunks = {
            _FINE: {subject: _packed(table, ticks[0].minute) for subject, table in tables.items()},
            _ROLLED: {subject: _packed(_rolled(table), ticks[0].minute) for subject, table in tables.items()},
        }
        self._file.write(ticks[0].minute, chunks, _KEPT)

    def _table(self, subject: Subject, span: int, since: float, until: float) -> _Table:
        """The points that end in (since, until]."""
        first = int(since // MINUTE) * MINUTE
        tables = [
            table for at, data in self._file.read(span, subject, first, int(until)) for table in _unpacked(data, at)
        ]
        with self._lock:
            ticks = [*self._leaving, *self._ticks]
        tables.append(_of_subject(ticks, subject))
        table = np.concatenate(tables)
        chosen: _Table = table[(table[:, 0] > since) & (table[:, 0] <= until)]
        return chosen


def _of_subject(ticks: Iterable[Tick], subject: Subject) -> _Table:
    there = [tick for tick in ticks if subject in tick.rows]
    table = np.empty((len(there), _HEAD + WIDTH))
    for place, tick in enumerate(there):
        table[place, :_HEAD] = tick.at, tick.seconds
        table[place, _HEAD:] = tick.rows[subject]
    return table


def _rolled(table: _Table) -> _Table:
    """All points as one, that ends when the last one does."""
    seconds = table[:, 1]
    return np.concatenate([[table[-1, 0], seconds.sum()], over_time(table[:, _HEAD:], seconds)])[None, :]


def _packed(table: _Table, minute: int) -> bytes:
    """Points as bytes: 32-bit floats, column by column, for neighbours in a column are alike."""
    relative = table - np.array([minute, *[0] * (table.shape[1] - 1)])
    return zlib.compress(relative.astype("<f4").T.tobytes(), 1)


def _unpacked(data: bytes, minute: int) -> Iterator[_Table]:
    """The points of a chunk; none when it is damaged."""
    most = 4 * (_HEAD + WIDTH) * MINUTE
    try:
        raw = zlib.decompressobj().decompress(data, most)
        table = np.frombuffer(raw, "<f4").reshape(_HEAD + WIDTH, -1).T.astype(np.float64)
    except (zlib.error, ValueError):
        return
    table[:, 0] += minute
    yield cast(_Table, table)
