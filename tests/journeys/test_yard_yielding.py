"""Who gives way to requests: replicas that start, and the yard itself. And a Docker daemon that is killed below."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from dockyard.build.builder import Built
from dockyard.client import Client
from dockyard.engines.base import Container, Engine
from dockyard.engines.docker.engine import DockerEngine
from dockyard.engines.runc.engine import RuncEngine
from dockyard.engines.weight import Weight, weigh, weight_of
from dockyard.gateway import process
from dockyard.scheduling import SHORT_NS, slice_of
from dockyard.spec.deployment import Deployment
from dockyard.spec.home import Home
from dockyard.yard import priority
from tests.support.dockerd import own_engine
from tests.support.load import Load
from tests.support.projects import PREDICTOR, build_in, write_adder
from tests.support.yards import RunningYard, alive, running_yard, until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root may give priority back")]

NAME = "adder"
RUNC = Path("/usr/sbin/runc")
BODY = {"left": 1.0, "right": 2.0}
WAITS = PREDICTOR.replace(
    "        self.offset = 0.5",
    """        import os
        import pathlib
        import time

        while not pathlib.Path(os.environ.get("GATE", "/"), "open").exists() and "GATE" in os.environ:
            time.sleep(0.05)
        self.offset = 0.5""",
)


@pytest.fixture(scope="module")
def gated(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An adder that, with a variable GATE, loads until a file `open` is in that folder."""
    return build_in(write_adder(tmp_path_factory.mktemp("gated"), predictor=WAITS), home, "gated:1")


@pytest.fixture(params=["runc", "docker"])
def yard(request: pytest.FixtureRequest, home: Home, gated: Built, dockerd: str) -> Iterator[RunningYard]:
    """A yard of one engine with one replica that serves."""
    with running_yard(home, {"DOCKER_HOST": dockerd}, "--engine", request.param) as running:
        assert running.deploy(Deployment(name=NAME, image="gated:1")).succeeded
        yield running


def containers(yard: RunningYard, phase: str) -> list[Container]:
    """The containers of the replicas in a phase, of those that have one already."""
    names = {each.id: each.engine for each in yard.status(NAME).replicas if each.phase == phase}

    async def listed() -> list[Container]:
        on_docker = "docker" in names.values()
        engine: Engine = (
            DockerEngine(yard.environment["DOCKER_HOST"]) if on_docker else RuncEngine(yard.home.runc, RUNC)
        )
        try:
            return [each for each in await engine.list() if each.name in names and each.pid]
        finally:
            await engine.close()

    return asyncio.run(listed())


def weights(yard: RunningYard, phase: str) -> list[float | None]:
    """Their weights."""
    return [weight_of(each) for each in containers(yard, phase)]


def low(yard: RunningYard, phase: str) -> bool:
    """Whether there are any, and all have little weight or none."""
    found = weights(yard, phase)
    return bool(found) and all(each is not None and each < 0.2 for each in found)


def a_tenth(yard: RunningYard, phase: str) -> bool:
    """Whether there is one that has a tenth of the usual weight."""
    return any(each is not None and 0.09 < each < 0.11 for each in weights(yard, phase))


def pids(yard: RunningYard, phase: str) -> list[int | None]:
    """Their processes."""
    return [each.pid for each in containers(yard, phase)]


def behind_a_gate(folder: Path) -> Deployment:
    """The next revision, whose replica loads until a file `open` is in the folder."""
    folder.chmod(0o755)
    return msgspec.convert(
        {
            "name": NAME,
            "image": "gated:1",
            "environment": {"GATE": "/gate"},
            "mounts": [{"source": str(folder), "target": "/gate"}],
        },
        Deployment,
    )


def test_a_replica_yields_while_it_starts_beside_others_and_has_its_full_weight_once_ready(
    yard: RunningYard, tmp_path: Path
) -> None:
    wanted = behind_a_gate(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        receipt = pool.submit(yard.deploy, wanted)
        until(lambda: low(yard, "starting"), "it does not yield")
        until(lambda: a_tenth(yard, "starting"), "it is idle for ever")
        assert weights(yard, "ready") == [1.0]
        (tmp_path / "open").touch()
        assert receipt.result(60).succeeded
    assert weights(yard, "ready") == [1.0]


def test_a_replica_that_starts_does_not_yield_any_more_when_the_last_that_served_ends(
    yard: RunningYard, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as pool:
        receipt = pool.submit(yard.deploy, behind_a_gate(tmp_path))
        until(lambda: low(yard, "starting"), "it does not yield")
        (serves,), (starts,) = containers(yard, "ready"), containers(yard, "starting")
        assert serves.pid is not None
        assert starts.pid is not None
        until(lambda: os.sched_getscheduler(starts.pid or 0) == os.SCHED_IDLE, "its threads do not give way")
        os.kill(serves.pid, signal.SIGKILL)
        until(lambda: weight_of(starts) == 1.0, "it yields to nobody")
        until(lambda: os.sched_getscheduler(starts.pid or 0) == os.SCHED_OTHER, "its threads still give way")
        (tmp_path / "open").touch()
        assert receipt.result(60).succeeded


@pytest.mark.parametrize("left", [Weight.YIELDING, Weight.IDLE])
def test_a_yard_that_comes_back_raises_what_the_one_before_left_low(yard: RunningYard, left: Weight) -> None:
    (container,) = containers(yard, "ready")
    assert container.pid is not None
    yard.kill()
    assert weigh(container, left)
    yard.start()
    until(lambda: weight_of(container) == 1.0, "it is not raised")
    until(lambda: os.sched_getscheduler(container.pid or 0) == os.SCHED_OTHER, "its threads still give way")
    assert pids(yard, "ready") == [container.pid]


def test_the_yard_gives_way_to_its_gateway_and_to_replicas(yard: RunningYard) -> None:
    assert yard.process is not None
    gateway = msgspec.json.decode((yard.home.yard / "gateway" / "envoy.json").read_bytes())["pid"]
    (replica,) = pids(yard, "ready")
    assert replica is not None
    niceness = [os.getpriority(os.PRIO_PROCESS, pid) for pid in (yard.process.pid, gateway, replica)]
    assert niceness == [priority.NICENESS, process.NICENESS, 0]
    slices = [slice_of(pid) for pid in (yard.process.pid, gateway, replica)]
    assert slices[1:] == [SHORT_NS, SHORT_NS] or not any(slices), slices  # kernels before 6.12 tell none
    assert slices[0] != SHORT_NS


def test_a_killed_docker_daemon_costs_no_request_and_the_next_one_has_the_same_replicas(
    home: Home, gated: Built
) -> None:
    with (
        own_engine("--live-restore") as docker,
        running_yard(home, {"DOCKER_HOST": f"unix://{docker.socket}"}, "--engine", "docker") as yard,
    ):
        assert yard.deploy(Deployment(name=NAME, image="gated:1", replicas=2)).succeeded
        before = pids(yard, "ready")
        with Load(yard.port, f"/models/{NAME}/predict", BODY) as load:
            for _ in range(2):
                docker.stop(signal.SIGKILL)
                served = load.answered
                until(lambda served=served: load.answered > served + 20, "nobody answers without the daemon")
                docker.start()
        assert load.failures == []
        assert set(load.answers) == {"3.5"}
        until(lambda: yard.status(NAME).ready == 2, "the replicas are not known again")
        assert pids(yard, "ready") == before
        assert yard.deploy(Deployment(name=NAME, image="gated:1", replicas=2, environment={"ROUND": "2"})).succeeded


def test_a_yard_that_starts_before_docker_does_adopts_its_replicas_once_docker_is_there(
    home: Home, gated: Built
) -> None:
    wanted = Deployment(name=NAME, image="gated:1")
    with (
        own_engine("--live-restore") as docker,
        running_yard(home, {"DOCKER_HOST": f"unix://{docker.socket}"}) as yard,
    ):
        assert yard.deploy(wanted).succeeded
        before = pids(yard, "ready")
        assert len(before) == 1
        with Load(yard.port, f"/models/{NAME}/predict", BODY) as load:
            yard.kill()
            docker.stop(signal.SIGKILL)
            yard.start()
            log = yard.home.yard / "up.log"
            until(lambda: "docker does not answer now" in log.read_text(), "nobody is told at the start")
            served = load.answered
            until(lambda: load.answered > served + 20, "nobody answers without yard and daemon")

            async def told(client: Client) -> list[str]:
                return [event.what async for event in client.events(0) if event.kind == "engine.gone"]

            until(lambda: yard.client(told), "nobody says that Docker does not answer")
            docker.start()
            until(lambda: pids(yard, "ready") == before, "the replicas are not known again")
            receipt = yard.deploy(msgspec.structs.replace(wanted, environment={"ROUND": "2"}))
        assert receipt.succeeded, receipt
        assert load.failures == []
        assert {each.engine for each in yard.status(NAME).replicas} == {"docker"}


def test_down_stops_what_it_can_while_docker_is_away_and_the_rest_once_it_is_back(home: Home, gated: Built) -> None:
    with (
        own_engine("--live-restore") as docker,
        running_yard(home, {"DOCKER_HOST": f"unix://{docker.socket}"}) as yard,
    ):
        for engine in ("docker", "runc"):
            assert yard.deploy(Deployment(name=f"on-{engine}", image="gated:1", engine=engine)).succeeded
        processes = {
            engine: yard.pid_of(yard.status(f"on-{engine}").replicas[0].id, engine) for engine in ("docker", "runc")
        }
        docker.stop(signal.SIGKILL)
        first = yard.line("down", "--grace", "1")
        assert first.returncode == 1
        assert "runc: 1 replicas have stopped" in first.stderr
        assert "docker" in first.stderr.split("error:")[1]
        assert [alive(processes[engine]) for engine in ("runc", "docker")] == [False, True]
        docker.start()
        second = yard.line("down", "--grace", "1")
        assert second.returncode == 0, second.stderr
        assert "docker: 1 replicas have stopped" in second.stderr
        assert not alive(processes["docker"])
