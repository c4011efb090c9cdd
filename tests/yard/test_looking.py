"""Whom the yard asks for a page of metrics: real servers on loopback, replicas in a real store and fleet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from dockyard.engines import labels
from dockyard.engines.base import Container, Engine, State, TcpAddress
from dockyard.gateway.base import Gateway
from dockyard.oci.layout import Layout
from dockyard.spec.deployment import Server
from dockyard.yard import sampler
from dockyard.yard.fleet import Fleet
from dockyard.yard.host import Host
from dockyard.yard.looking import Looking
from dockyard.yard.records import ReplicaRecord
from dockyard.yard.state import Phase
from dockyard.yard.store import Store
from tests.yard.conftest import ADA, revision

PAGE = b"# TYPE nv_requests counter\nnv_requests 7\ndockyard_audit_entries_total 99\n"


class Docker:
    """An engine whose containers go on for ever."""

    async def wait(self, _: str) -> None:
        await asyncio.Future[None]()


class Envoy:
    """A gateway that has counted nothing."""

    async def metrics(self) -> str:
        return ""


@dataclass
class Answering:
    """A server on loopback or on a unix socket: what it answers, if anything, and the paths it was asked for."""

    answer: bytes
    asked: list[str] = field(default_factory=list)
    port: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split()[1].decode())
        if self.answer:
            writer.write(self.answer)
        else:
            await reader.read()  # until whoever asked goes away
        writer.close()


def said(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def answering(answer: bytes, path: Path | None = None) -> AsyncIterator[Answering]:
    server = Answering(answer)
    listening = await (
        asyncio.start_unix_server(server, str(path)) if path else asyncio.start_server(server, "127.0.0.2", 0)
    )
    server.port = 0 if path else listening.sockets[0].getsockname()[1]
    async with listening:
        yield server


@dataclass
class Eyes:
    """The yard's eyes, over a fleet that holds what a test gives it."""

    store: Store
    fleet: Fleet
    looking: Looking
    folder: Path

    def replica(self, number: int, phase: Phase, *, port: int = 0) -> ReplicaRecord:
        """A replica that runs: a foreign server at a port, or berth on a unix socket."""
        name = f"iris-{number}-a"
        record = self.store.add_replica(name, "iris", number, engine="docker", folder=self.folder / name)
        told = {} if port else {labels.SOCKETS: str(record.folder)}
        tcp = TcpAddress("127.0.0.2", port) if port else None
        running = Container(name, name, "iris:1", State.RUNNING, None, None, None, tcp, told, "docker")
        self.fleet.keep(record, running, None)
        return self.store.set_phase(name, phase)

    def page(self) -> str:
        return self.looking.metrics.text(self.looking.sampler.pages)


@pytest.fixture
async def eyes(store: Store, path: Path, short_path: Path) -> AsyncIterator[Eyes]:
    host = Host({"docker": cast(Engine, Docker())}, "docker", Layout.create(short_path / "images"), short_path, 1 << 32)
    fleet = Fleet(host, store, lambda: None)
    looking = Looking(path.parent, store, fleet, cast(Gateway, Envoy()))
    yield Eyes(store, fleet, looking, short_path)
    await fleet.close()
    looking.close()


@pytest.fixture
def served(store: Store) -> Callable[[Server], int]:
    """Notes a revision with a server, and gives its number."""
    contents: Iterator[str] = iter("abcdef")
    return lambda server: store.add_revision(revision(content=next(contents), server=server), ADA).number


async def test_a_foreign_server_s_page_is_told_with_its_labels_and_without_our_names(
    eyes: Eyes, served: Callable[[Server], int]
) -> None:
    async with answering(said(PAGE)) as server:
        number = served(Server(port=server.port))
        eyes.replica(number, Phase.READY, port=server.port)
        await eyes.looking.sampler.tick()
    assert server.asked == ["/metrics"]
    page = eyes.page()
    assert f'nv_requests{{deployment="iris",revision="{number}",replica="iris-{number}-a"}} 7' in page
    assert "dockyard_audit_entries_total 99" not in page
    assert 'dockyard_metrics_left_out{reason="reserved"} 1' in page


async def test_replicas_that_drain_are_asked_too_whoever_made_their_server(
    eyes: Eyes, served: Callable[[Server], int]
) -> None:
    number, other = served(Server()), served(Server(port=1))
    async with answering(said(PAGE)) as foreign:
        berth = eyes.replica(number, Phase.DRAINING)
        eyes.replica(other, Phase.DRAINING, port=foreign.port)
        berth.folder.mkdir()
        async with answering(said(b"berth_pending_requests 3\n"), berth.folder / labels.HTTP_SOCKET):
            await eyes.looking.sampler.tick()
    page = eyes.page()
    assert f'berth_pending_requests{{deployment="iris",revision="{number}",replica="iris-{number}-a"}} 3' in page
    assert f'nv_requests{{deployment="iris",revision="{other}",replica="iris-{other}-a"}} 7' in page


async def test_a_preset_s_server_is_asked_where_that_server_has_its_page(
    eyes: Eyes, served: Callable[[Server], int]
) -> None:
    async with answering(said(PAGE)) as server:
        number = served(Server(preset="tfserving", port=server.port))
        eyes.replica(number, Phase.READY, port=server.port)
        await eyes.looking.sampler.tick()
    assert server.asked == ["/monitoring/prometheus/metrics"]


async def test_a_server_without_a_page_is_no_fault_and_is_seldom_asked_again(
    eyes: Eyes, served: Callable[[Server], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answering(said(b"what?", "404 Not Found")) as server:
        eyes.replica(served(Server(port=server.port)), Phase.READY, port=server.port)
        for _ in range(3):
            await eyes.looking.sampler.tick()
        assert len(server.asked) == 1
        monkeypatch.setattr(sampler, "ASK_AGAIN", 0.0)
        server.answer = said(PAGE)
        await eyes.looking.sampler.tick()
    assert "nv_requests{" in eyes.page()
    assert eyes.looking.sampler.counts.unanswered == 0


async def test_nobody_at_the_port_of_the_page_is_no_fault(eyes: Eyes, served: Callable[[Server], int]) -> None:
    async with answering(said(PAGE)) as gone:
        pass
    eyes.replica(served(Server(port=gone.port)), Phase.READY, port=gone.port)
    await eyes.looking.sampler.tick()
    assert eyes.looking.sampler.counts.unanswered == 0
    assert "nv_requests" not in eyes.page()


async def test_a_server_that_hangs_costs_a_bounded_time_and_is_counted(
    eyes: Eyes, served: Callable[[Server], int]
) -> None:
    async with answering(b"") as server:
        eyes.replica(served(Server(port=server.port)), Phase.READY, port=server.port)
        async with asyncio.timeout(sampler.DEADLINE + 3):
            await eyes.looking.sampler.tick()
    assert eyes.looking.sampler.counts.unanswered == 1
