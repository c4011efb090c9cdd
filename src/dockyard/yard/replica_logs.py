"""What replicas write, as lines: of those that serve, of those that start, and of those that fail to.

A replica has one container after the other; each is read from its first line to its last. A container that fails is
removed at once, so its last lines are taken from the event that tells of it where they could not be read any more.
`telling` calls it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import datetime

from dockyard.engines.base import Container
from dockyard.errors import ContainerNotFoundError, DockyardError
from dockyard.spec.status import LogLine
from dockyard.yard.host import Host
from dockyard.yard.records import ReplicaRecord
from dockyard.yard.store import Store

LOOK_S = 0.1
_WAITING = 1000
_COMPARED = 100
_CRASHED = "replica.crashed"


async def kept_lines(
    host: Host, store: Store, name: str, replica: str, tail: int | None
) -> AsyncGenerator[LogLine, None]:
    """What is there: the last `tail` lines of each replica of a deployment, or of one of them."""
    for record in store.replicas(name):
        if replica not in {"", record.id}:
            continue
        try:
            async for line in host.engine(record.engine).logs(record.id, tail=tail):
                yield _line(record, line)
        except ContainerNotFoundError:
            for line in _cut(_last_words(store, record), tail):
                yield _line(record, line)
        except DockyardError:
            continue


async def followed_lines(
    host: Host, store: Store, name: str, replica: str, tail: int | None
) -> AsyncGenerator[LogLine, None]:
    """The last `tail` lines of what is there, then all that is written, by replicas that come later too; for ever."""
    lines: asyncio.Queue[LogLine] = asyncio.Queue(maxsize=_WAITING)
    readers: dict[str, asyncio.Task[None]] = {}
    there = {record.id for record in store.replicas(name)}
    try:
        while True:
            for record in store.replicas(name):
                if record.id not in readers and replica in {"", record.id}:
                    reader = _Reader(host, store, record, lines)
                    if record.id in there:
                        reader.join(tail)
                    readers[record.id] = asyncio.create_task(reader.run())
            line = None
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    line = await lines.get()
            if line is not None:
                yield line
    finally:
        for task in readers.values():
            task.cancel()
        await asyncio.gather(*readers.values(), return_exceptions=True)


class _Reader:
    """Reads one replica: one container after the other, until nothing is left of it."""

    def __init__(self, host: Host, store: Store, record: ReplicaRecord, lines: asyncio.Queue[LogLine]) -> None:
        self._engine = host.engine(record.engine)
        self._store = store
        self._record = record
        self._lines = lines
        self._tail: int | None = None
        self._waiting: list[str] = []
        self._shown: deque[str] = deque(maxlen=_COMPARED)
        self._life: tuple[str, datetime | None] | None = None
        self._since = 0

    def join(self, tail: int | None) -> None:
        """Begin in the middle: with the last `tail` lines, or the last words where no container is."""
        self._tail = tail
        newest = self._store.events.newest(limit=1)
        self._since = newest[-1].sequence if newest else 0
        self._waiting = _cut(_last_words(self._store, self._record), tail)

    async def run(self) -> None:
        """Until the replica is gone."""
        gone = False
        while not gone:
            gone = all(each.id != self._record.id for each in self._store.replicas(self._record.deployment))
            await self._tell_crashes()
            try:
                await self._read(await self._engine.inspect(self._record.id))
            except ContainerNotFoundError:
                waiting, self._waiting = self._waiting, []
                for line in waiting:
                    await self._put(line)
            except DockyardError:
                pass
            await asyncio.sleep(LOOK_S)

    async def _read(self, container: Container) -> None:
        """A container that was not read yet, to its end."""
        life = (container.id, container.started)
        if life == self._life:
            return
        self._life, self._waiting = life, []
        self._shown.clear()
        tail, self._tail = self._tail, None
        with suppress(DockyardError):
            async for line in self._engine.logs(container.id, follow=True, tail=tail):
                await self._put(line)

    async def _tell_crashes(self) -> None:
        """The last words of containers that ended, as far as they were not shown."""
        for event in self._store.events.after(self._since, deployment=self._record.deployment):
            self._since = event.sequence
            if event.kind == _CRASHED and event.replica == self._record.id:
                for line in unseen(tuple(self._shown), event.detail.splitlines()):
                    await self._put(line)
                self._shown.clear()

    async def _put(self, line: str) -> None:
        self._shown.append(line)
        await self._lines.put(_line(self._record, line))


def unseen(shown: tuple[str, ...], last: list[str]) -> list[str]:
    """Those of the last lines that come after the ones shown, however far both overlap."""
    for length in range(min(len(shown), len(last)), 0, -1):
        for start in range(len(last) - length + 1):
            if tuple(last[start : start + length]) == shown[-length:]:
                return last[start + length :]
    return last


def _cut(lines: list[str], tail: int | None) -> list[str]:
    return lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]


def _last_words(store: Store, record: ReplicaRecord) -> list[str]:
    for event in reversed(store.events.newest(deployment=record.deployment)):
        if event.kind == _CRASHED and event.replica == record.id:
            return event.detail.splitlines()
    return []


def _line(record: ReplicaRecord, line: str) -> LogLine:
    return LogLine(replica=record.id, revision=record.revision, line=line)
