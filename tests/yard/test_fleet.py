"""Why a replica is replaced is told in an event: in words, in one word for programs, and with its last lines."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dockyard.engines.base import Container, Ending, State, TcpAddress
from dockyard.errors import EngineError, StartError
from dockyard.oci.image import ImageConfig, Platform, assemble
from dockyard.spec.deployment import Deployment, Probes, Server
from dockyard.spec.status import Event
from dockyard.yard.parts import Parts
from dockyard.yard.records import NewRevision
from dockyard.yard.state import Advance, Phase, RolloutPhase
from dockyard.yard.store import Store
from dockyard.yard.telling import Telling
from tests.yard.conftest import ADA
from tests.yard.told import ToldEngine, ToldGateway, parts_of

NAME = "iris-1-a"
LOG = tuple(f"line {number}" for number in range(1, 8))
DEADLINE_S = 10.0


@pytest.fixture
async def engine() -> ToldEngine:
    return ToldEngine(written={"c0ffee": "\n".join(LOG)})


@pytest.fixture
async def parts(store: Store, tmp_path: Path, engine: ToldEngine) -> AsyncIterator[Parts]:
    """A yard with one replica of an image with a server of others; no container runs yet."""
    made = parts_of(store, tmp_path, ToldGateway(), engine)
    image = assemble(ImageConfig(Platform.host()), [])
    for document in (image.config, image.manifest):
        made.host.images.blobs.write(document)
    made.host.images.add(image.image, "iris:1")
    probes = Probes(live_every_s=0.1, live_timeout_s=0.5, live_failures=2)
    settings = Deployment(name="iris", image="iris:1", server=Server(port=9000), probes=probes)
    store.add_revision(NewRevision(settings, image.image.digest, "iris:1", 1 << 28), ADA)
    store.begin_rollout("iris", 1, ADA)
    store.advance(Advance("iris", RolloutPhase.DONE))
    store.add_replica(NAME, "iris", 1, engine="runc", folder=tmp_path / NAME)
    yield made
    await made.reconciler.close()
    made.looking.close()


def container(address: TcpAddress | None = None) -> Container:
    return Container("c0ffee", NAME, "iris:1", State.RUNNING, None, None, None, address, {}, "runc")


def watched(parts: Parts, engine: ToldEngine, address: TcpAddress | None = None) -> None:
    """The replica is ready, and its container is seen to its end."""
    engine.put(container(address))
    parts.reconciler.fleet.keep(parts.store.set_phase(NAME, Phase.READY), container(address), None)


async def crash(parts: Parts) -> Event:
    """What the yard tells once the replica counts as crashed."""
    async with asyncio.timeout(DEADLINE_S):
        while parts.store.replica(NAME).phase is not Phase.CRASHED:
            await asyncio.sleep(0.01)
    (found,) = [
        each
        async for each in Telling(parts).events(0, deployment="iris", follow=False)
        if each.kind == "replica.crashed"
    ]
    assert (found.replica, found.revision, found.level) == (NAME, 1, "error")
    return found


@pytest.mark.parametrize(
    ("ending", "reason", "what"),
    [
        (Ending(3), "exit", "ended with exit code 3"),
        (Ending(139), "exit", "was killed by signal 11"),
        (Ending(None), "exit", "nobody knows how"),
        (Ending(137, oom_killed=True), "memory", "killed by the kernel"),
    ],
    ids=["crash", "signal", "power failure", "memory"],
)
async def test_a_replica_that_ends_is_told_with_the_reason_and_its_last_lines(
    parts: Parts, engine: ToldEngine, ending: Ending, reason: str, what: str
) -> None:
    watched(parts, engine)
    engine.put(replace(container(), state=State.EXITED, ending=ending))
    event = await crash(parts)
    assert event.reason == reason
    assert what in event.what
    assert event.detail.splitlines() == list(LOG)


async def test_a_replica_that_hangs_is_told_with_the_reason_and_its_last_lines(
    parts: Parts, engine: ToldEngine
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # nobody ever accepts
        watched(parts, engine, TcpAddress(*listening.getsockname()))
        event = await crash(parts)
    assert event.reason == "liveness"
    assert "hangs: 2 times in a row /v2/health/live" in event.what
    assert event.detail.splitlines() == list(LOG)


async def test_a_replica_whose_container_somebody_removed_is_told_as_gone(parts: Parts, engine: ToldEngine) -> None:
    watched(parts, engine)
    await engine.remove("c0ffee")
    event = await crash(parts)
    assert (event.reason, "removed by somebody else" in event.what) == ("gone", True)


def image_is_lost(parts: Parts, _: ToldEngine) -> None:
    parts.host.images.remove("iris:1")


def engine_is_silent(_: Parts, engine: ToldEngine) -> None:
    engine.failing = EngineError("nobody listens there")


def start_fails(_: Parts, engine: ToldEngine) -> None:
    engine.breaking = StartError("it was not ready after 3 s", detail="\n".join(LOG))


@pytest.mark.parametrize(
    ("broken", "reason", "log"),
    [(image_is_lost, "image", ()), (engine_is_silent, "engine", ()), (start_fails, "start", LOG)],
)
async def test_a_replica_that_does_not_start_is_told_with_the_reason(
    parts: Parts,
    engine: ToldEngine,
    broken: Callable[[Parts, ToldEngine], None],
    reason: str,
    log: tuple[str, ...],
) -> None:
    broken(parts, engine)
    parts.reconciler.fleet.start(parts.store.replica(NAME))
    event = await crash(parts)
    assert event.reason == reason
    assert event.what.startswith(f"{NAME} did not start: ")
    assert tuple(event.detail.splitlines()) == log


async def test_the_problem_of_a_deployment_says_of_which_revision_and_why(parts: Parts, engine: ToldEngine) -> None:
    watched(parts, engine)
    engine.put(replace(container(), state=State.EXITED, ending=Ending(137, oom_killed=True)))
    await crash(parts)
    problem = (await Telling(parts).status("iris")).problem
    assert problem is not None
    assert (problem.reason, problem.revision, problem.replica, problem.log) == ("memory", 1, NAME, LOG)
