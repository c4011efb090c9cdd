"""A yard whose store and telling are real, over an engine and a gateway that say what a test tells them to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from dockyard.engines.base import Container, ContainerSpec, Ending, Engine, State, unknown_container
from dockyard.errors import DockyardError, EngineError
from dockyard.gateway.base import Counts, Gateway
from dockyard.gateway.snapshot import Snapshot
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.yard.admission import Admission
from dockyard.yard.audit import AuditLog
from dockyard.yard.host import Host
from dockyard.yard.looking import Looking
from dockyard.yard.parts import Parts
from dockyard.yard.receipts import Receipts
from dockyard.yard.reconcile import Reconciler
from dockyard.yard.store import Store


@dataclass
class ToldGateway:
    """Counts what it is told to have counted. `failing`: raised instead; cleared `go` makes it hang."""

    address: str = "http://127.0.0.1:8080"
    counted: dict[str, int] = field(default_factory=dict)
    failing: DockyardError | None = None
    go: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    def __post_init__(self) -> None:
        self.go.set()

    async def counts(self) -> Mapping[str, Counts]:
        self.asked += 1
        await self.go.wait()
        if self.failing is not None:
            raise self.failing
        return {name: Counts(number, 0, 0, 0, ejected=False) for name, number in self.counted.items()}

    async def apply(self, wanted: Snapshot) -> None:
        wanted.consistent()

    async def metrics(self) -> str:
        return ""


@dataclass
class ToldEngine:
    """Has the containers that it is told to have, and logs of theirs; `put` one that has ended, and its end is noticed.

    `failing`: raised instead of an answer. `breaking`: raised by a start. `asked`: somebody wants to know what it can
    give a container; cleared `go` makes the first who asks wait.
    """

    name: str = "runc"
    containers: list[Container] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)
    failing: DockyardError | None = None
    breaking: DockyardError | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, container: Container) -> None:
        """From now on this container is there, as it is."""
        self.containers = [*(each for each in self.containers if each.id != container.id), container]
        self.changed.set()

    async def list(self) -> tuple[Container, ...]:
        self._pass()
        return tuple(self.containers)

    async def load(self, *_: object) -> None:
        self._pass()

    async def start(self, *_: object) -> Container:
        self._pass()
        raise self.breaking or AssertionError("no test starts a container here")

    def __post_init__(self) -> None:
        self.go.set()

    async def check(self, spec: ContainerSpec) -> None:
        if not self.asked.is_set():
            self.asked.set()
            await self.go.wait()
        if spec.gpus:
            raise EngineError("GPUs take Docker", remedy="Deploy it with Docker.")

    async def inspect(self, container_id: str) -> Container:
        for each in self.containers:
            if container_id in {each.id, each.name}:
                return each
        raise unknown_container(container_id)

    async def wait(self, container_id: str, deadline: float | None = None) -> int:
        while (found := await self.inspect(container_id)).state is not State.EXITED:
            self.changed.clear()
            await self.changed.wait()
        return found.exit_code or 0

    async def stop(self, container_id: str, grace: float = 30.0) -> int | None:
        found = await self.inspect(container_id)
        self.put(replace(found, state=State.EXITED, ending=Ending(137)))
        return 137

    async def remove(self, container_id: str) -> None:
        self.containers.remove(await self.inspect(container_id))
        self.changed.set()

    async def logs(self, container_id: str, *, follow: bool = False, tail: int | None = None) -> AsyncIterator[str]:
        for line in self.written.get(container_id, "").splitlines()[-(tail or 0) :]:
            yield line

    def _pass(self) -> None:
        if self.failing is not None:
            raise self.failing


def parts_of(store: Store, folder: Path, gateway: ToldGateway, *engines: ToldEngine) -> Parts:
    """All of a yard; its loop does not run."""
    proxy = cast(Gateway, gateway)
    host = Host(
        engines={each.name: cast(Engine, each) for each in engines},
        default_engine=engines[0].name if engines else "",
        images=Layout.create(folder / "images"),
        sockets=folder / "containers",
        memory=1 << 32,
    )
    audit = AuditLog.open(store, folder)
    reconciler = Reconciler(host, store, proxy, Receipts(store, audit, proxy))
    return Parts(
        home=Home(folder),
        host=host,
        store=store,
        audit=audit,
        reconciler=reconciler,
        gateway=proxy,
        admission=Admission(host, store, lambda *_: ()),
        looking=Looking(folder, store, reconciler.fleet, proxy),
    )
