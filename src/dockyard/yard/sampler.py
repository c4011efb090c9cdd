"""The loop that looks: every two seconds, what gateway and replicas count and use becomes a tick of the time series.

The yard runs it beside the reconciler and hands it two questions, so it knows no engine and no gateway. It never raises
into its caller: what cannot be read is not known, and that is what the series then says. One tick at a time; those that
come due meanwhile are skipped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dockyard.yard import points, readings
from dockyard.yard.exposition import GATEWAY, Exposition, read
from dockyard.yard.points import Row, Subject, Usage
from dockyard.yard.readings import Reading, RevisionName
from dockyard.yard.scrape import Page, fetch_all, rotated
from dockyard.yard.series import Series, Tick
from dockyard.yard.state import Phase
from dockyard.yard.usage import usages

EVERY = 2.0
DEADLINE = 1.5
FORGET = 60.0
"""Seconds after which a reading is too old to be compared with."""
ASK_AGAIN = 60.0
"""Seconds until a server that has no page of metrics is asked whether it has one now."""
KEEP_TEXT = 64 << 20
"""Characters of pages that are kept for the yard's own /metrics."""
_ASKED = frozenset({Phase.READY, Phase.DRAINING})
_ALIVE = _ASKED | {Phase.STARTING, Phase.FREEZING, Phase.FROZEN}
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A replica to look at. Its page is asked for only while it is ready or draining: a connection would wake it."""

    deployment: str
    revision: int
    replica: str
    phase: Phase
    page: Page = field(default_factory=Page)
    pid: int | None = None
    """Its container's first process on this host; None where the engine is elsewhere."""

    @property
    def subject(self) -> Subject:
        """Its name in the series."""
        return Subject(self.deployment, self.revision, self.replica)


@dataclass(frozen=True)
class Sources:
    """What the sampler asks: all replicas there are, and the gateway's Prometheus text."""

    replicas: Callable[[], Awaitable[Sequence[Target]]]
    gateway: Callable[[], Awaitable[str]]


@dataclass(frozen=True)
class Pages:
    """The texts of one tick, for the yard's own /metrics."""

    gateway: str = ""
    replicas: Mapping[Subject, str] = field(default_factory=dict, hash=False)
    targets: Sequence[Target] = ()


@dataclass
class Counts:
    """What the sampler says of itself."""

    ticks: int = 0
    skipped: int = 0
    """Ticks that came due while another one ran."""
    failed: int = 0
    """Ticks that broke off; the log has the reason."""
    unanswered: int = 0
    """Pages that did not come in time. A server that has none is no fault."""
    seconds: float = 0.0
    """How long the last tick took."""


class _Memory(Generic[_T]):
    """What was read of each subject last, and when. What could not be read is compared with what was read before."""

    def __init__(self, row: Callable[[_T, _T, float], Row], newborn: _T | None = None) -> None:
        """`newborn`: what to compare a subject with that was not there the last time; None: with nothing."""
        self._row = row
        self._newborn = newborn
        self._seen: dict[Subject, tuple[float, _T]] = {}
        self._last: float | None = None

    def rows(self, now: Mapping[Subject, _T], moment: float, seconds: float) -> dict[Subject, Row]:
        """What happened at each subject since it was read last, brought to `seconds` when that is longer ago."""
        found = {}
        for subject, what in now.items():
            before = self._seen.get(subject)
            if before is None and self._newborn is not None and self._last is not None:
                before = (self._last, self._newborn)
            if before is not None and (elapsed := moment - before[0]) > 0:
                found[subject] = self._row(before[1], what, elapsed) * (seconds / elapsed)
        self._seen |= {subject: (moment, what) for subject, what in now.items()}
        self._seen = {subject: seen for subject, seen in self._seen.items() if seen[0] > moment - FORGET}
        self._last = moment
        return found


class Sampler:
    """Fills a series from its sources. `clock` is seconds since 1970, `moment` a clock that never jumps back."""

    def __init__(
        self,
        sources: Sources,
        series: Series,
        *,
        clock: Callable[[], float] = time.time,
        moment: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = sources
        self._series = series
        self._clock = clock
        self._moment = moment
        self._revisions = _Memory(points.of_requests, Reading())
        self._replicas = _Memory(points.of_requests)
        self._usages = _Memory(points.of_usage)
        self._pageless: dict[Subject, float] = {}
        """When each server that has no page was asked last."""
        self._last: float | None = None
        self.counts = Counts()
        self.pages = Pages()
        """Of the last tick."""

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self._safe_tick()
            late = int((loop.time() - due) // EVERY)
            self.counts.skipped += late
            due += EVERY * (late + 1)
            await asyncio.sleep(due - loop.time())

    async def _safe_tick(self) -> None:
        began = self._moment()
        try:
            await self.tick()
        except Exception:  # the loop must go on, whatever a source does
            self.counts.failed += 1
            _log.exception("a look at gateway and replicas broke off")
        self.counts.seconds = self._moment() - began

    async def tick(self) -> None:
        """Look once."""
        self.counts.ticks += 1
        async with asyncio.timeout(DEADLINE):
            targets = await self._sources.replicas()
        asked = self._asked(targets)
        alive = {each.subject: each.pid for each in targets if each.pid is not None and each.phase in _ALIVE}
        gateway, fetched, used = await asyncio.gather(
            self._gateway(),
            fetch_all(asked, within=DEADLINE),
            asyncio.to_thread(usages, alive.values()),
        )
        self.counts.unanswered += len(asked) - len(fetched.texts) - len(fetched.pageless)
        self._pageless |= dict.fromkeys(fetched.pageless, self._moment())
        self.pages = Pages(gateway, _short_enough(fetched.texts), targets)
        found = await asyncio.to_thread(_read, gateway, targets, fetched.texts)
        tick = self._tick(targets, found, {subject: used[pid] for subject, pid in alive.items() if pid in used})
        if tick is not None:
            await asyncio.to_thread(self._series.record, tick)

    def _asked(self, targets: Sequence[Target]) -> dict[Subject, Page]:
        """The pages to ask for now."""
        now = self._moment()
        self._pageless = {subject: at for subject, at in self._pageless.items() if now - at < ASK_AGAIN}
        return {
            each.subject: each.page
            for each in rotated(targets, self.counts.ticks)
            if each.phase in _ASKED and each.page.exists and each.subject not in self._pageless
        }

    async def _gateway(self) -> str:
        """The gateway's text; empty when it does not come."""
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._sources.gateway()
        except Exception as error:  # whatever the gateway's client raises, the replicas are still worth looking at
            self.counts.unanswered += 1
            _log.warning("the gateway did not tell its metrics: %s", error)
            return ""

    def _tick(self, targets: Sequence[Target], found: _Found, used: Mapping[Subject, Usage]) -> Tick | None:
        """What happened since the last time; None when this is the first."""
        moment, last = self._moment(), self._last
        self._last = moment
        seconds = moment - last if last is not None else 0.0
        parts = [self._replicas.rows(found.replicas, moment, seconds), self._usages.rows(used, moment, seconds)]
        if found.revisions is not None:
            parts.append(self._revisions.rows(found.revisions, moment, seconds))
        if seconds <= 0:
            return None
        subjects = {each.subject for each in targets}.union(*parts)
        rows = {
            subject: points.together([part[subject] for part in parts if subject in part] or [points.unknown()])
            for subject in subjects
        }
        return Tick(self._clock(), moment, seconds, _with_parents(rows, targets, seconds))


@dataclass(frozen=True)
class _Found:
    """The readings of a tick; `revisions` is None when the gateway did not answer."""

    revisions: Mapping[Subject, Reading] | None
    replicas: Mapping[Subject, Reading]


def _read(gateway: str, targets: Iterable[Target], texts: Mapping[Subject, str]) -> _Found:
    """Read all pages. Runs in a thread: the gateway's alone may be megabytes.

    Of a revision, or a pool, that had no request yet the gateway says nothing, which means that it counted nothing.
    """
    revisions = None
    if gateway:
        numbers = {(each.deployment, number) for each in targets for number in (each.revision, readings.POOLED)}
        revisions = {Subject(*name): Reading() for name in numbers}
        for name, reading in readings.of_gateway(gateway_figures(gateway)).items():
            revisions[Subject(*name)] = reading
    own = {subject: readings.of_replica(read(text, wanted=readings.BERTH)) for subject, text in texts.items()}
    return _Found(revisions, {subject: reading for subject, reading in own.items() if reading is not None})


class _GatewayNames:
    """The names of the gateway's that `of_gateway` reads, also where a revision's number is part of them."""

    def __init__(self) -> None:
        self._known: dict[object, bool] = {}

    def __contains__(self, name: object) -> bool:
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = readings.plain_name(str(name)) in readings.GATEWAY
        return known


def gateway_figures(text: str) -> Exposition:
    """The gateway's page, as far as `of_gateway` and `receipt` need it."""
    return read(text, GATEWAY, wanted=_GatewayNames())


def _with_parents(rows: Mapping[Subject, Row], targets: Sequence[Target], seconds: float) -> dict[Subject, Row]:
    """The rows of replicas and revisions, and of the deployments that they belong to."""
    children: dict[RevisionName, list[Row]] = defaultdict(list)
    ready: dict[RevisionName, int] = defaultdict(int)
    found = dict(rows)
    for target in targets:
        is_ready = target.phase is Phase.READY
        revision = RevisionName(target.deployment, target.revision)
        points.add_ready(found[target.subject], is_ready, seconds)
        children[revision].append(found[target.subject])
        ready[revision] += is_ready
    revisions = {RevisionName(*subject[:2]) for subject in rows}
    families: dict[str, list[Row]] = defaultdict(list)
    for revision in revisions:
        row = found.setdefault(Subject(*revision), points.unknown())
        points.add_own(row, children[revision])
        points.add_ready(row, ready[revision], seconds)
        families[revision.deployment].append(row)
    return found | {Subject(name): points.together(family) for name, family in families.items()}


def _short_enough(texts: Mapping[Subject, str]) -> dict[Subject, str]:
    """As many pages as may be kept."""
    kept, left = {}, KEEP_TEXT
    for subject, text in texts.items():
        left -= len(text)
        if left < 0:
            break
        kept[subject] = text
    return kept
