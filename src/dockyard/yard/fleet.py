"""The replicas' containers: starts, watches, freezes, stops and adopts them, each in the background.

`act` gives the orders, `reconcile` is told by `notify` whenever something has changed. What happened is in the store
when it is told, so a yard that is killed loses nothing: the next one calls `adopt`. One order at a time is carried out
for a replica; `busy` says whether one is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from dockyard.engines.base import Container, ContainerSpec, Engine, State, TcpAddress
from dockyard.engines.launch import YIELDING_SHARE, launch
from dockyard.engines.sockets import Listener
from dockyard.engines.weight import Weight, weigh
from dockyard.errors import (
    ContainerNotFoundError,
    DockyardError,
    EngineError,
    ImageError,
    StartError,
    StoreError,
    UnknownInYardError,
)
from dockyard.oci.image import Image
from dockyard.spec.deployment import Probes
from dockyard.yard.containers import container_of, is_ours
from dockyard.yard.host import Host
from dockyard.yard.labels import labels_of
from dockyard.yard.records import ReplicaRecord, RevisionRecord
from dockyard.yard.state import Phase
from dockyard.yard.store import Store
from dockyard.yard.turns import Turns
from dockyard.yard.watch import Ended, watch

RETRY_S = 1.0
PATIENCE_S = 5.0
"""How long the end of a replica waits for starts, and for the ends of others."""
STABLE_S = 60.0
"""A replica that was ready for so long before it crashed begins to count its crashes anew."""

_log = logging.getLogger(__name__)


@dataclass
class Handle:
    """What this process holds of one replica: our copy of its listener, its container, the tasks about it.

    `hurry` is set when it starts and nobody is left who answers meanwhile.
    """

    listener: Listener | None = None
    container: Container | None = None
    work: asyncio.Task[None] | None = None
    stopping: bool = False
    watching: asyncio.Task[None] | None = None
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


class Fleet:
    """All replicas of this host. `notify` is called when the store has news of one."""

    def __init__(self, host: Host, store: Store, notify: Callable[[], None]) -> None:
        self._host = host
        self._store = store
        self._notify = notify
        self._handles: dict[str, Handle] = {}
        self._turns = Turns()

    def busy(self, replica: str) -> bool:
        """Whether an order about it is being carried out."""
        work = self._handle(replica).work
        return work is not None and not work.done()

    def tcp(self, replica: str) -> TcpAddress | None:
        """Where a foreign server answers, while it runs."""
        container = self._handle(replica).container
        return container.tcp if container else None

    def container(self, replica: str) -> Container | None:
        """Its container, if it has one that runs."""
        return self._handle(replica).container

    def hold(self, record: ReplicaRecord) -> None:
        """Listen for a replica before anything is started, so that requests can wait for it."""
        handle = self._handle(record.id)
        if handle.listener is None and is_ours(self._host.image(self._revision(record).image_digest)):
            handle.listener = Listener.bind(record.folder)

    def start(self, record: ReplicaRecord) -> None:
        """Start its container, on the socket that it has or a new one."""
        self._order(record.id, self._start(record))

    def stop(self, record: ReplicaRecord, grace: float, why: str) -> bool:
        """Stop its container, if it has one, and leave nothing of the replica; ends a start that is under way.

        False when that was ordered before.
        """
        handle = self._handle(record.id)
        if handle.stopping:
            return False
        if handle.work is not None:
            handle.work.cancel()
        handle.stopping = True
        self._order(record.id, self._stop(record, handle.work, grace, why))
        return True

    async def freeze(self, record: ReplicaRecord) -> None:
        """Pause its processes."""
        await self._host.engine(record.engine).freeze(record.id)
        self._store.pass_on(record.id, Phase.FREEZING, Phase.FROZEN)

    async def thaw(self, record: ReplicaRecord) -> None:
        """Let its processes go on."""
        await self._host.engine(record.engine).thaw(record.id)
        self._store.pass_on(record.id, Phase.FROZEN, Phase.READY)

    def keep(self, record: ReplicaRecord, container: Container, listener: Listener | None) -> None:
        """Take over a container that runs: from now on it is watched."""
        handle = self._handle(record.id)
        handle.container, handle.listener = container, listener or handle.listener
        weigh(container, Weight.FULL)  # a yard that was killed may have left it at less
        probes = self._revision(record).settings.probes
        handle.watching = asyncio.create_task(self._watch(record, container, probes))

    def lost(self, record: ReplicaRecord, ended: Ended) -> None:
        """Note that a replica's container has ended, or hangs, and tell why."""
        handle = self._handle(record.id)
        handle.container = None
        now = self._store.replica(record.id)
        stable = now.phase is Phase.READY and self._store.now() - now.since >= STABLE_S
        with self._store.together():
            self._store.set_phase(record.id, Phase.CRASHED, crashes=1 if stable else now.crashes + 1)
            self._store.events.add(
                "replica.crashed",
                f"{record.id} {ended.what}",
                deployment=record.deployment,
                revision=record.revision,
                replica=record.id,
                reason=ended.kind,
                detail=ended.log,
            )
        for each in self._store.replicas():
            if each.deployment == record.deployment and each.phase is Phase.STARTING and not self._others_serve(each):
                self._handle(each.id).hurry.set()
        self._notify()

    async def close(self) -> None:
        """Let go of everything. Containers go on; starts that are under way are undone."""
        tasks = [
            task for each in self._handles.values() for task in (each.work, each.watching) if task and not task.done()
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for handle in self._handles.values():
            if handle.listener is not None:
                handle.listener.close()

    async def _start(self, record: ReplicaRecord) -> None:
        engine = self._host.engine(record.engine)
        revision = self._revision(record)
        settings = revision.settings
        try:
            image = self._host.image(revision.image_digest)
            self.hold(record)
            await _remove_if_there(engine, record.id)
            await engine.load(image, self._host.images, revision.image_name)
            container = await self._launched(record, image, settings.probes)
        except DockyardError as error:
            mend = "" if isinstance(error, StartError) or not error.remedy else f". {error.remedy}"
            ended = Ended(f"did not start: {error.what}{mend}", _kind(error), error.detail)
            await _noted(lambda: self.lost(record, ended))
            return
        await _noted(lambda: self._ready(record, container))
        self.keep(record, container, None)

    async def _launched(self, record: ReplicaRecord, image: Image, probes: Probes) -> Container:
        """Its container, once it is ready; one that can wait takes its turn, and yields to others."""
        hurry = self._handle(record.id).hurry
        hurry.clear()
        yielding = hurry if self._others_serve(record) else None
        deadline = probes.start_deadline_s
        async with self._turns.turn(deadline * YIELDING_SHARE, hurry) if yielding else nullcontext():
            return await launch(
                self._host.engine(record.engine),
                self._spec(record, image),
                self._handle(record.id).listener,
                ready_path=probes.ready_path,
                deadline=deadline,
                yielding=yielding,
            )

    def _others_serve(self, record: ReplicaRecord) -> bool:
        """Whether this one may take its time, to start or to end: requests of its deployment do not wait for that."""
        return any(
            each.phase is Phase.READY
            for each in self._store.replicas()
            if each.deployment == record.deployment and each.id != record.id
        )

    def _ready(self, record: ReplicaRecord, container: Container) -> None:
        """It is ready; unless it was sent away meanwhile: then it only answers the requests that wait for it."""
        with self._store.together():
            self._store.set_container(record.id, container.id)
            if self._store.pass_on(record.id, Phase.STARTING, Phase.READY):
                self._tell("replica.ready", f"{record.id} is ready", record)

    async def _stop(self, record: ReplicaRecord, before: asyncio.Task[None] | None, grace: float, why: str) -> None:
        handle, engine = self._handle(record.id), self._host.engine(record.engine)
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        if handle.watching is not None:
            handle.watching.cancel()
        try:
            async with self._turns.afterwards(PATIENCE_S) if self._others_serve(record) else nullcontext():
                with suppress(ContainerNotFoundError):
                    await engine.stop(record.id, grace)
                await _remove_if_there(engine, record.id)
        except DockyardError as error:
            self._tell("replica.stop-failed", f"{record.id} could not be stopped: {error.what}", record)
            await asyncio.sleep(RETRY_S)
            handle.stopping = False
            return
        if handle.listener is not None:
            handle.listener.discard()
        self._handles.pop(record.id, None)
        self._store.remove_replica(record.id)
        self._tell("replica.stopped", f"{record.id} was stopped{f': {why}' if why else ''}", record)

    async def _watch(self, record: ReplicaRecord, container: Container, probes: Probes) -> None:
        """See the container to its end; then it counts as crashed, unless somebody stops it."""
        engine = self._host.engine(record.engine)

        def awake() -> bool:
            return self._store.replica(record.id).phase not in {Phase.FROZEN, Phase.FREEZING}

        try:
            ended = await watch(engine, container, probes, awake)
            if ended.kind == "liveness":
                with suppress(DockyardError):
                    await engine.stop(container.id, 0)
            await _noted(lambda: self.lost(record, ended))
        except UnknownInYardError:
            return

    def _order(self, replica: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=replica)
        task.add_done_callback(self._done)
        self._handle(replica).work = task

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("an order about %s failed", task.get_name(), exc_info=error)
            with suppress(StoreError):
                self._store.events.add("yard.fault", f"an order about {task.get_name()} failed: {error!r}")
        self._notify()

    def _tell(self, kind: str, text: str, record: ReplicaRecord) -> None:
        self._store.events.add(kind, text, deployment=record.deployment, revision=record.revision, replica=record.id)

    def _spec(self, record: ReplicaRecord, image: Image) -> ContainerSpec:
        revision = self._revision(record)
        wanted = self._store.deployment(record.deployment).wanted
        labels = labels_of(self._store.yard, record.id, revision, wanted)
        return container_of(revision.settings, image, revision.image_name, record.id, labels)

    def _revision(self, record: ReplicaRecord) -> RevisionRecord:
        return self._store.revision(record.deployment, record.revision)

    def _handle(self, replica: str) -> Handle:
        return self._handles.setdefault(replica, Handle())


def _kind(error: DockyardError) -> str:
    """The word for why a replica did not start: its image is not there, the engine cannot, or its own program ended."""
    if isinstance(error, ImageError):
        return "image"
    return "engine" if isinstance(error, EngineError) and not isinstance(error, StartError) else "start"


async def _noted(change: Callable[[], None]) -> None:
    """Write down what happened to a replica, however long a full disk refuses: what is not noted nobody mends."""
    while True:
        try:
            return change()
        except StoreError as error:
            _log.error("what happened to a replica cannot be noted yet: %s", error)
            await asyncio.sleep(RETRY_S)


async def _remove_if_there(engine: Engine, container: str) -> None:
    with suppress(ContainerNotFoundError):
        await engine.remove(container)


def runs(container: Container) -> bool:
    """Whether it is there to serve, awake or frozen."""
    return container.state in {State.RUNNING, State.FROZEN}
