"""What only the Docker engine must do by itself: outlive its daemon, and networks for those that need one."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import aiodocker
import pytest

from dockyard.engines.base import ContainerSpec, State, TcpAddress
from dockyard.engines.docker.engine import DockerEngine
from dockyard.engines.launch import launch
from dockyard.engines.once import run_once
from dockyard.engines.probe import probe
from dockyard.engines.recovery import recover
from dockyard.engines.sockets import Listener
from dockyard.errors import EngineError, StartError
from dockyard.oci.archive import archive_chunks
from dockyard.oci.image import History, Image, ImageConfig
from dockyard.spec.resources import Resources
from tests.conftest import TinyImage
from tests.support.dockerd import OwnEngine, own_engine
from tests.support.tiny_image import CONFIG, make_image

LIMITS = Resources(memory=64 << 20, pids=16)
BUILT = replace(CONFIG, history=(History(created_by="dockyard 1", comment="a layer"),) * 3)
HTTPD = replace(CONFIG, entrypoint=("/bin/busybox", "httpd", "-f", "-p", "8000", "-h", "/app"), command=())


def spec_of(image: Image, **more: object) -> ContainerSpec:
    return replace(ContainerSpec(f"tiny-{secrets.token_hex(4)}", image, resources=LIMITS), **more)


@asynccontextmanager
async def opened(own: OwnEngine) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(f"unix://{own.socket}")
    try:
        yield engine
    finally:
        for container in await engine.list():
            await engine.remove(container.id)
        await engine.close()


def steps(engine: DockerEngine) -> tuple[Callable[[str], Awaitable[object]], ...]:
    return engine.inspect, engine.freeze, engine.thaw, engine.stop, engine.wait, engine.remove


class TestDaemon:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    async def test_containers_and_their_listeners_outlive_a_daemon_with_live_restore(
        self, number: signal.Signals, tiny_image: TinyImage, short_path: Path
    ) -> None:
        with own_engine("--live-restore") as own, Listener.bind(short_path / "replica") as listener:
            async with opened(own) as engine:
                assert await engine.warnings() == ()
                await engine.load(tiny_image.image, tiny_image.layout, "tiny:1")
                container = await launch(engine, spec_of(tiny_image.image), listener)
                assert container.socket is not None
                assert container.pid is not None
                own.stop(number)
                assert (await probe(container.socket, "/", 5)).ok
                recovered = recover(container.pid, container.socket)
                assert recovered is not None
                recovered.close()
                own.start()
                assert await engine.list() == (container,)
                assert await engine.stop(container.id, 5) == 0

    async def test_while_the_daemon_is_gone_errors_come_at_once_and_say_so(
        self, tiny_image: TinyImage, short_path: Path
    ) -> None:
        with own_engine() as own, Listener.bind(short_path / "replica") as listener:
            async with opened(own) as engine:
                assert "live-restore" in (await engine.warnings())[0]
                await engine.load(tiny_image.image, tiny_image.layout, "tiny:1")
                container = await launch(engine, spec_of(tiny_image.image), listener)
                waiting = asyncio.ensure_future(engine.wait(container.id))
                await asyncio.sleep(0.2)
                own.stop(signal.SIGKILL)
                begun = time.monotonic()
                with pytest.raises(EngineError, match=r"broke|does not answer"):
                    await waiting
                for ask in (engine.list, engine.warnings, *(partial(each, container.id) for each in steps(engine))):
                    with pytest.raises(EngineError, match="does not answer"):
                        await ask()
                assert time.monotonic() - begun < 5
                own.start()
                assert [each.state for each in await engine.list()] == [State.EXITED]
                again = await launch(engine, spec_of(tiny_image.image), listener)
                assert (await probe(listener.socket, "/", 5)).ok
                assert again.state is State.RUNNING


@pytest.fixture(scope="module")
def networked() -> Iterator[OwnEngine]:
    """An engine whose networks nobody else sees."""
    with own_engine() as own:
        yield own


class TestNetworks:
    async def test_a_foreign_server_answers_on_its_address_and_reaches_no_other_network(
        self, networked: OwnEngine, tiny_image: TinyImage
    ) -> None:
        async with opened(networked) as engine:
            image = make_image(tiny_image.layout, tiny_image.base, "httpd:1", "hello", HTTPD)
            await engine.load(image, tiny_image.layout, "httpd:1")
            container = await launch(engine, spec_of(image, tcp_port=8000), ready_path="/note.txt")
            assert isinstance(container.address, TcpAddress)
            assert container.address.port == 8000
            assert container.socket is None
            assert (await probe(container.address, "/note.txt", 5)).ok
            assert (await probe(container.address, "/missing", 5)).status == 404
            assert [each.address for each in await engine.list()] == [container.address]
            again = await launch(engine, spec_of(image, tcp_port=8000), ready_path="/note.txt")
            assert again.address != container.address
            async with aiodocker.Docker(url=f"unix://{networked.socket}") as client:
                found = await (await client.networks.get("dockyard-internal")).show()
            assert found["Internal"] is True
            assert found["Options"]["com.docker.network.bridge.enable_icc"] == "false"

    async def test_a_foreign_server_that_does_not_get_ready_is_removed(
        self, networked: OwnEngine, tiny_image: TinyImage
    ) -> None:
        async with opened(networked) as engine:
            image = make_image(tiny_image.layout, tiny_image.base, "httpd:1", "hello", HTTPD)
            await engine.load(image, tiny_image.layout, "httpd:1")
            for more in ({"tcp_port": 8001}, {"tcp_port": 8000}):
                with pytest.raises(StartError, match="not ready after 1 s"):
                    await launch(engine, spec_of(image, **more), ready_path="/missing", deadline=1)
            with pytest.raises(EngineError, match="neither a listener nor a port"):
                await launch(engine, spec_of(image))
            assert await engine.list() == ()

    async def test_egress_is_a_network_that_the_operator_made(
        self, networked: OwnEngine, tiny_image: TinyImage
    ) -> None:
        async with opened(networked) as engine:
            await engine.load(tiny_image.image, tiny_image.layout, "tiny:1")
            with pytest.raises(EngineError, match="no network 'way-out'") as caught:
                await engine.start(spec_of(tiny_image.image, network="way-out"))
            assert "docker network create way-out" in caught.value.remedy
            async with aiodocker.Docker(url=f"unix://{networked.socket}") as client:
                await client.networks.create({"Name": "way-out", "Driver": "bridge"})
            report = await run_once(engine, spec_of(tiny_image.image, command=("report",), network="way-out"))
            assert b"interfaces=lo,eth0\n" in report.stdout
            both = spec_of(tiny_image.image, command=("report",), network="way-out", tcp_port=8000)
            lines = (await run_once(engine, both)).stdout.decode().splitlines()
            (interfaces,) = [line for line in lines if line.startswith("interfaces=")]
            assert {"eth0", "eth1"} < set(interfaces.partition("=")[2].split(","))

    async def test_a_network_of_that_name_with_a_way_out_is_refused(
        self, networked: OwnEngine, tiny_image: TinyImage
    ) -> None:
        async with opened(networked) as engine, aiodocker.Docker(url=f"unix://{networked.socket}") as client:
            await engine.load(tiny_image.image, tiny_image.layout, "tiny:1")
            if any(network["Name"] == "dockyard-internal" for network in await client.networks.list()):
                await (await client.networks.get("dockyard-internal")).delete()
            made = await client.networks.create({"Name": "dockyard-internal", "Driver": "bridge"})
            with pytest.raises(EngineError, match="has a way out"):
                await engine.start(spec_of(tiny_image.image, tcp_port=8000))
            await made.delete()

    async def test_a_docker_without_addresses_left_is_told_with_what_makes_room(self, tiny_image: TinyImage) -> None:
        with own_engine("--default-address-pool=base=10.214.0.0/29,size=29") as own:
            async with opened(own) as engine, aiodocker.Docker(url=f"unix://{own.socket}") as client:
                await engine.load(tiny_image.image, tiny_image.layout, "tiny:1")
                only = await client.networks.create({"Name": "the-only-one", "Driver": "bridge"})
                with pytest.raises(EngineError, match="no addresses left") as caught:
                    await engine.start(spec_of(tiny_image.image, tcp_port=8000))
                assert "docker network prune" in caught.value.remedy
                await only.delete()
                await engine.start(spec_of(tiny_image.image, tcp_port=8000))
        assert not (Path("/sys/class/net") / f"br-{only.id[:12]}").exists()

    async def test_gpus_that_this_host_lacks_are_a_start_error_that_says_what_to_check(
        self, networked: OwnEngine, tiny_image: TinyImage
    ) -> None:
        async with opened(networked) as engine:
            await engine.load(tiny_image.image, tiny_image.layout, "tiny:1")
            with pytest.raises(StartError) as caught:
                await engine.start(spec_of(tiny_image.image, gpus=("all",)))
            assert "NVIDIA Container Toolkit" in caught.value.remedy
            assert await engine.list() == ()


@dataclass(frozen=True)
class Quay:
    """An engine that nobody else uses, a client of it as a person has one, and the tiny image."""

    engine: DockerEngine
    client: aiodocker.Docker
    tiny: TinyImage

    async def load(self, note: str, config: ImageConfig = BUILT, name: str = "quay:1") -> Image:
        """An image with its own note; the one that had the name loses it."""
        image = make_image(self.tiny.layout, self.tiny.base, name, note, config)
        await self.engine.load(image, self.tiny.layout, name)
        return image

    async def named(self, image: Image) -> datetime:
        """When it was last given a name."""
        found = await self.client.images.inspect(image.image_id)
        return datetime.fromisoformat(found["Metadata"]["LastTagTime"])

    async def has(self, *images: Image) -> list[bool]:
        """Which of them the engine has."""
        found = {entry["Id"] for entry in await self.client.images.list()}
        return [image.image_id in found for image in images]


@pytest.fixture(scope="module")
def lonely() -> Iterator[OwnEngine]:
    with own_engine() as own:
        yield own


@pytest.fixture
async def quay(lonely: OwnEngine, tiny_image: TinyImage) -> AsyncIterator[Quay]:
    async with opened(lonely) as engine, aiodocker.Docker(url=f"unix://{lonely.socket}") as client:
        yield Quay(engine, client, tiny_image)


class TestPruning:
    async def test_an_image_that_lost_its_name_goes_unless_it_is_needed(self, quay: Quay) -> None:
        gone, kept, named = await quay.load("x" * 3000), await quay.load("kept"), await quay.load("named")
        assert await quay.engine.prune([kept], 3600) == 0
        assert await quay.has(gone, kept, named) == [True, True, True], "they were loaded a moment ago"
        assert await quay.engine.prune([kept], 0) == 3000
        assert await quay.has(gone, kept, named) == [False, True, True]
        finished = await run_once(quay.engine, spec_of(kept, command=("exit", "3")))
        assert finished.exit_code == 3
        assert (await quay.load("x" * 3000)).image_id == gone.image_id

    async def test_a_container_keeps_its_image_until_it_is_removed(self, quay: Quay) -> None:
        image = await quay.load("used")
        running = await quay.engine.start(spec_of(image, command=("wait",)))
        ended = await quay.engine.start(spec_of(image, command=("exit", "0")))
        await quay.engine.wait(ended.id, 20)
        await quay.load("newer")
        await quay.engine.prune([], 0)
        assert await quay.has(image) == [True]
        await quay.engine.remove(running.id)
        await quay.engine.prune([], 0)
        assert await quay.has(image) == [True]
        await quay.engine.remove(ended.id)
        await quay.engine.prune([], 0)
        assert await quay.has(image) == [False]

    async def test_a_container_that_came_after_the_look_keeps_its_image_too(
        self, quay: Quay, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = await quay.load("used")
        await quay.engine.start(spec_of(image, command=("wait",)))
        await quay.load("newer")

        async def none(*_: object, **__: object) -> list[object]:
            return []

        with monkeypatch.context() as patched:
            patched.setattr(type(quay.client.containers), "list", none)
            await quay.engine.prune([], 0)
        assert await quay.has(image) == [True]

    async def test_what_a_person_named_or_made_is_not_touched(self, quay: Quay) -> None:
        tagged = await quay.load("tagged")
        await quay.client.images.tag(tagged.image_id, "mine", tag="1")
        step = History(created_by="/bin/sh -c #(nop) COPY file:1 in /app")
        derived = await quay.load("derived", replace(BUILT, history=(*BUILT.history[1:], step)))
        foreign = await quay.load("foreign", replace(BUILT, labels={"maintainer": "ada"}))
        await quay.load("newer")
        await quay.engine.prune([], 0)
        assert await quay.has(tagged, derived, foreign) == [True, True, True]
        await quay.client.images.delete("mine:1", noprune=True)
        assert await quay.has(tagged) == [False], "Docker takes it with its last name"

    async def test_a_load_of_what_is_there_already_counts_as_new(self, quay: Quay) -> None:
        image = await quay.load("first")
        before = await quay.named(image)
        await quay.load("first")
        assert await quay.named(image) > before

    async def test_an_image_that_an_archive_brought_goes_too(self, quay: Quay) -> None:
        image = make_image(quay.tiny.layout, quay.tiny.base, "quay:1", "from an archive", BUILT)

        async def archive() -> AsyncIterator[bytes]:
            for chunk in archive_chunks(image, quay.tiny.layout, "quay:1"):
                yield chunk

        await quay.client.images.import_image(archive())
        await quay.load("newer")
        await quay.engine.prune([], 3600)
        assert await quay.has(image) == [False]

    async def test_a_daemon_that_is_gone_is_an_error_that_says_so(self, tiny_image: TinyImage) -> None:
        engine = DockerEngine("unix:///nowhere/docker.sock")
        with pytest.raises(EngineError, match="does not answer"):
            await engine.prune([tiny_image.image], 0)
        await engine.close()
