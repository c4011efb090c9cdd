"""One suite for every engine: what `dockyard.engines.base.Engine` promises, proven on the real thing."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dockyard.engines.base import Container, ContainerSpec, Ending, Engine, State
from dockyard.engines.detect import find
from dockyard.engines.docker.engine import DockerEngine
from dockyard.engines.launch import launch, launch_alone
from dockyard.engines.once import Finished, run_once
from dockyard.engines.own import groups_named_after, send_signal
from dockyard.engines.recovery import recover
from dockyard.engines.runc.engine import RuncEngine
from dockyard.engines.secrets import ROOT as SECRETS
from dockyard.engines.sockets import Listener
from dockyard.engines.weight import Weight, weigh, weight_of
from dockyard.errors import (
    ContainerNotFoundError,
    EngineError,
    ImageError,
    ImageNotFoundError,
    PortTakenError,
    StartError,
)
from dockyard.oci.layout import Layout
from dockyard.scheduling import SHORT_NS, slice_of
from dockyard.spec.deployment import Mount
from dockyard.spec.resources import Resources
from tests.conftest import TinyImage
from tests.support.tiny_image import CONFIG, make_image

LIMITS = Resources(memory=64 << 20, cpus=1.0, pids=24)
NO_CAPABILITIES = {"CapEff": "0", "CapPrm": "0", "CapBnd": "0", "CapInh": "0", "CapAmb": "0"}


@dataclass(frozen=True)
class Yard:
    """An engine with the tiny image loaded, a way to open it again, and a folder for sockets."""

    engine: Engine
    reopen: Callable[[], Engine]
    runtime: Path
    tiny: TinyImage
    podman: bool = False

    def spec(self, name: str = "", *command: str, **more: object) -> ContainerSpec:
        """A spec of the tiny image with a name that no other test has."""
        full = f"{name or 'tiny'}-{secrets.token_hex(4)}"
        return replace(
            ContainerSpec(full, self.tiny.image, image_name="tiny:1", command=command, resources=LIMITS), **more
        )

    async def shell(self, script: str, **more: object) -> Finished:
        """Run a shell script in a container of the tiny image."""
        config = replace(CONFIG, entrypoint=("/bin/busybox", "sh", "-c"), command=())
        image = make_image(self.tiny.layout, self.tiny.base, "shell:1", "", config)
        await self.engine.load(image, self.tiny.layout, "shell:1")
        return await run_once(self.engine, self.spec("shell", script, image=image, **more), deadline=30)

    async def facts(self, *command: str) -> dict[str, str]:
        """What the tiny program prints about its container, as `name=value` lines."""
        finished = await run_once(self.engine, self.spec("facts", *command), deadline=30)
        assert finished.exit_code == 0, finished
        return dict(line.split("=", 1) for line in finished.stdout.decode().splitlines())


@pytest.fixture(params=["docker", "runc"])
def opener(request: pytest.FixtureRequest, short_path: Path) -> Callable[[], Engine]:
    if request.param == "docker":
        address = request.getfixturevalue("dockerd")
        return lambda: DockerEngine(address)
    if os.geteuid() != 0:
        pytest.skip("runc needs root")
    return lambda: RuncEngine(short_path / "runc", Path("/usr/sbin/runc"))


@pytest.fixture
async def yard(
    request: pytest.FixtureRequest, opener: Callable[[], Engine], short_path: Path, tiny_image: TinyImage
) -> AsyncIterator[Yard]:
    engine = opener()
    before = {container.id for container in await engine.list()}  # those of whoever uses this engine too
    try:
        await engine.load(tiny_image.image, tiny_image.layout, "tiny:1")
        yield Yard(engine, opener, short_path / "run", tiny_image, await is_podman(request, engine))
    finally:
        for container in await engine.list():
            if container.id not in before:
                await engine.remove(container.id)
        await engine.close()


async def is_podman(request: pytest.FixtureRequest, engine: Engine) -> bool:
    """Whether the engine is Podman: it is when DOCKER_HOST says so."""
    if engine.name != "docker":
        return False
    return "Podman" in (await find({"DOCKER_HOST": request.getfixturevalue("dockerd")}, "docker")).why


async def ask(container: Container, port: int | None = None) -> bytes:
    """One HTTP request, over the unix socket or a TCP port."""
    assert container.socket is not None
    async with asyncio.timeout(5):
        if port is None:
            reader, writer = await asyncio.open_unix_connection(container.socket)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: tiny\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


def mount_points() -> set[str]:
    """Where something is mounted on this host."""
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def secrets_of(name: str) -> list[Path]:
    """The folders of secrets of containers whose names begin so."""
    return list(SECRETS.glob(f"{name}-*"))


async def lines_of(engine: Engine, container: Container, **wanted: object) -> list[str]:
    async with asyncio.timeout(15):
        return [line async for line in engine.logs(container.id, **wanted)]


def is_idle(container: Container) -> bool:
    """Whether it gets next to nothing; on kernels that know no idle groups, whether it has a tenth."""
    known = any((folder / "cpu.idle").exists() for folder in groups_named_after(container).values())
    weight = weight_of(container)
    return weight is not None and weight < (0.01 if known else 0.2)


def is_low(container: Container) -> bool:
    """Whether it is idle or has a tenth of the usual weight."""
    weight = weight_of(container)
    return weight is not None and weight < 0.2


def has_a_tenth(container: Container) -> bool:
    """Whether it has a tenth of the usual weight."""
    return 0.09 < (weight_of(container) or 0.0) < 0.11


async def until(condition: Callable[[], bool], deadline: float = 30.0) -> None:
    async with asyncio.timeout(deadline):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def one_that_is_never_ready(
    yard: Yard, enough: asyncio.Event, deadline: float = 1200.0
) -> AsyncIterator[Container]:
    """The container of a launch that yields, which goes on until the end of the block."""
    spec = yard.spec("slow", "serve", "never-ready")
    with Listener.bind(yard.runtime / "replica") as listener:
        launching = asyncio.create_task(launch(yard.engine, spec, listener, deadline=deadline, yielding=enough))
        try:
            async with asyncio.timeout(30):
                while not (found := [each for each in await yard.engine.list() if each.name == spec.name and each.pid]):
                    await asyncio.sleep(0.02)
            yield found[0]
        finally:
            launching.cancel()
            with suppress(asyncio.CancelledError):
                await launching


class TestHardening:
    async def test_the_process_is_the_unprivileged_user_without_any_capability(self, yard: Yard) -> None:
        facts = await yard.facts("report")
        assert (facts["Uid"], facts["Gid"]) == ("65532", "0")
        assert {name: facts[name] for name in NO_CAPABILITIES} == NO_CAPABILITIES
        assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
        assert facts["pid"] == "1"

    async def test_only_tmp_can_be_written(self, yard: Yard) -> None:
        facts = await yard.facts("report")
        assert facts["write_root"] == "EROFS"
        assert facts["write_bin"] in {"EROFS", "EACCES"}
        assert facts["write_sys"] in {"EROFS", "EACCES"}
        assert facts["write_run"] in {"EROFS", "ENOENT"}
        assert facts["write_tmp"] == "ok"
        assert facts["tmp_bytes"] == str(256 << 20)

    async def test_there_is_no_network_but_loopback(self, yard: Yard) -> None:
        facts = await yard.facts("report")
        assert facts["interfaces"] == "lo"
        assert facts["connect_outside"] == "ENETUNREACH"
        assert facts["connect_metadata"] == "ENETUNREACH"

    async def test_dangerous_system_calls_are_refused(self, yard: Yard) -> None:
        facts = await yard.facts("forbidden")
        if yard.engine.name == "docker":
            facts.pop("ptrace")  # Docker's own filter lets a process trace its children
        if yard.podman:  # Podman's own filter lets it do more
            facts = {name: fact for name, fact in facts.items() if name not in {"unshare", "setns", "keyctl"}}
        assert set(facts.values()) == {"EPERM"}

    async def test_an_image_of_root_or_of_a_named_user_runs_unprivileged_all_the_same(self, yard: Yard) -> None:
        for user in ("", "0", "root", "1000:0"):
            image = make_image(
                yard.tiny.layout,
                yard.tiny.base,
                f"user:{user.replace(':', '-') or 'none'}",
                user,
                replace(CONFIG, user=user),
            )
            await yard.engine.load(image, yard.tiny.layout, "user:1")
            finished = await run_once(yard.engine, yard.spec("user", "report", image=image))
            assert (b"Uid=1000\n" if user == "1000:0" else b"Uid=65532\n") in finished.stdout

    async def test_memory_beyond_the_limit_kills_the_process(self, yard: Yard) -> None:
        enough = await run_once(yard.engine, yard.spec("eat", "eat", "20"))
        assert (enough.exit_code, enough.stdout) == (0, b"ate 20\n")
        too_much = await run_once(yard.engine, yard.spec("eat", "eat", "200"))
        assert too_much.exit_code == 137

    async def test_no_more_processes_start_than_the_limit(self, yard: Yard) -> None:
        facts = await yard.facts("fork", "100")
        assert 1 <= int(facts["born"]) < LIMITS.pids

    async def test_the_processor_time_is_limited(self, yard: Yard) -> None:
        spec = yard.spec("burn", "burn", "1000", resources=replace(LIMITS, cpus=0.25))
        finished = await run_once(yard.engine, spec)
        assert int(finished.stdout.decode().split("=")[1]) < 500


class TestServing:
    async def test_a_launched_container_answers_on_its_unix_socket(self, yard: Yard) -> None:
        container = await launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime)
        assert container.state is State.RUNNING
        assert (await ask(container)).endswith(b"\r\n\r\ntiny\n")
        assert container.ports == ()

    async def test_a_published_port_answers_on_the_host_though_the_container_has_no_network(self, yard: Yard) -> None:
        container = await launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime, publish=0)
        (port,) = container.ports
        assert (await ask(container, port)).endswith(b"tiny\n")
        assert (await ask(container)).endswith(b"tiny\n")

    async def test_a_taken_port_is_named_and_nothing_is_started(self, yard: Yard) -> None:
        first = await launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime, publish=0)
        spec = yard.spec()
        with pytest.raises(PortTakenError, match=str(first.ports[0])):
            await launch_alone(yard.engine, spec, runtime_folder=yard.runtime, publish=first.ports[0])
        assert [container.name for container in await yard.engine.list()] == [first.name]
        assert len(list(yard.runtime.iterdir())) == 1

    async def test_two_containers_of_one_image_run_side_by_side(self, yard: Yard) -> None:
        first, second = await asyncio.gather(
            launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime),
            launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime),
        )
        assert first.socket != second.socket
        await yard.engine.stop(first.id, 5)
        assert (await ask(second)).endswith(b"tiny\n")

    async def test_the_activation_socket_is_gone_once_the_container_is_ready(self, yard: Yard) -> None:
        container = await launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime)
        assert container.socket is not None
        assert [path.name for path in container.socket.parent.iterdir()] == ["http.sock"]


class TestWeight:
    """How much of the processor a container gets beside others, as the kernel says."""

    @pytest.mark.parametrize(("low", "has_it"), [(Weight.YIELDING, has_a_tenth), (Weight.IDLE, is_idle)])
    async def test_it_is_full_and_can_be_lowered_and_raised_when_frozen(
        self, yard: Yard, low: Weight, has_it: Callable[[Container], bool]
    ) -> None:
        container = await yard.engine.start(yard.spec("waits", "wait"))
        assert weight_of(container) == 1.0
        await yard.engine.freeze(container.id)
        assert weigh(container, low)
        assert has_it(container)
        assert weigh(container, Weight.FULL)
        assert weight_of(container) == 1.0
        assert (await yard.engine.inspect(container.id)).state is State.FROZEN
        await yard.engine.thaw(container.id)
        assert weight_of(container) == 1.0

    async def test_only_a_group_that_is_named_after_the_container_is_touched(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("waits", "wait"))
        assert not weigh(replace(container, id="another"), Weight.YIELDING)
        assert weight_of(container) == 1.0
        await yard.engine.remove(container.id)
        assert weight_of(container) is None
        assert not weigh(container, Weight.FULL)

    async def test_one_that_yielded_while_it_started_has_it_full_once_it_is_ready(self, yard: Yard) -> None:
        with Listener.bind(yard.runtime / "replica") as listener:
            container = await launch(yard.engine, yard.spec(), listener, yielding=asyncio.Event())
            assert weight_of(container) == 1.0
            assert container.pid is not None
            assert os.sched_getscheduler(container.pid) == os.SCHED_OTHER

    async def test_one_that_is_idle_can_have_any_weight_and_be_idle_again(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("waits", "wait"))
        for weight, has_it in ((Weight.YIELDING, has_a_tenth), (Weight.IDLE, is_idle)):
            assert weigh(container, Weight.IDLE)
            assert weigh(container, weight)
            assert has_it(container)
        assert weigh(container, Weight.FULL)
        assert weight_of(container) == 1.0

    @pytest.mark.parametrize("low", [Weight.YIELDING, Weight.IDLE])
    async def test_how_its_threads_are_scheduled_goes_with_its_weight(self, yard: Yard, low: Weight) -> None:
        container = await yard.engine.start(yard.spec("waits", "wait"))
        assert container.pid is not None
        told = slice_of(container.pid) > 0
        assert weigh(container, low)
        assert os.sched_getscheduler(container.pid) == os.SCHED_IDLE
        assert weigh(container, Weight.FULL)
        assert os.sched_getscheduler(container.pid) == os.SCHED_OTHER
        assert slice_of(container.pid) == (SHORT_NS if told else 0)

    async def test_one_that_yields_does_so_before_its_engine_says_that_it_runs(
        self, yard: Yard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dockyard.engines.weight.IDLE_S", 300.0)
        container = await yard.engine.start(replace(yard.spec("waits", "wait"), yielding=True))
        assert is_low(container)  # nobody else has told it so yet

    @pytest.mark.parametrize(("bound", "has_it"), [(300.0, is_idle), (0.2, has_a_tenth)])
    async def test_one_that_starts_is_idle_then_has_a_tenth_and_its_full_weight_once_that_is_enough(
        self, yard: Yard, bound: float, has_it: Callable[[Container], bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dockyard.engines.weight.IDLE_S", bound)
        enough = asyncio.Event()
        async with one_that_is_never_ready(yard, enough) as container:
            await until(lambda: has_it(container))
            enough.set()
            await until(lambda: not is_low(container))
            assert weight_of(container) == 1.0

    @pytest.mark.parametrize("bound", [0.5, 300.0])
    async def test_one_that_takes_long_to_start_does_not_yield_for_ever(
        self, yard: Yard, bound: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dockyard.engines.weight.IDLE_S", bound)
        async with one_that_is_never_ready(yard, asyncio.Event(), deadline=20) as container:
            await until(lambda: is_low(container))
            await until(lambda: not is_low(container))
            assert weight_of(container) == 1.0


class TestFailedStarts:
    @pytest.mark.parametrize(
        ("mode", "said"),
        [
            (("exit", "4"), "cannot go on"),
            (("serve", "broken"), "the weights are damaged"),
        ],
    )
    async def test_a_process_that_ends_shows_its_exit_code_and_the_end_of_its_log(
        self, yard: Yard, mode: tuple[str, ...], said: str
    ) -> None:
        begun = time.monotonic()
        with pytest.raises(StartError) as caught:
            await launch_alone(yard.engine, yard.spec("fails", *mode), runtime_folder=yard.runtime)
        assert f"exit code {4 if mode[0] == 'exit' else 9}" in caught.value.what
        assert said in caught.value.detail
        assert caught.value.remedy
        assert time.monotonic() - begun < 5
        assert await yard.engine.list() == ()
        assert list(yard.runtime.iterdir()) == []

    async def test_a_container_that_hangs_up_without_ready_is_removed(self, yard: Yard) -> None:
        with pytest.raises(StartError, match="hung up"):
            await launch_alone(yard.engine, yard.spec("hangs", "serve", "hang-up"), runtime_folder=yard.runtime)
        assert await yard.engine.list() == ()

    async def test_a_container_that_is_not_ready_in_time_is_removed(self, yard: Yard) -> None:
        spec = yard.spec("slow", "serve", "never-ready")
        with pytest.raises(StartError, match=r"not ready after 1 s") as caught:
            await launch_alone(yard.engine, spec, runtime_folder=yard.runtime, deadline=1)
        assert "still loading" in caught.value.detail
        assert await yard.engine.list() == ()
        assert list(yard.runtime.iterdir()) == []

    async def test_a_cancelled_launch_leaves_nothing(self, yard: Yard) -> None:
        for patience in (0.01, 0.1, 0.5):
            spec = yard.spec("cancelled", "serve", "never-ready")
            launching = asyncio.ensure_future(launch_alone(yard.engine, spec, runtime_folder=yard.runtime))
            await asyncio.sleep(patience)
            launching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await launching
            assert await yard.engine.list() == ()
            assert list(yard.runtime.iterdir()) == []

    async def test_a_program_that_is_not_in_the_image_is_named(self, yard: Yard) -> None:
        image = make_image(
            yard.tiny.layout, yard.tiny.base, "missing:1", "", replace(CONFIG, entrypoint=("/bin/nowhere",))
        )
        await yard.engine.load(image, yard.tiny.layout, "missing:1")
        with pytest.raises(StartError, match="/bin/nowhere"):
            await yard.engine.start(yard.spec("missing", image=image))
        assert await yard.engine.list() == ()

    async def test_an_image_that_was_not_loaded_is_named(self, yard: Yard) -> None:
        image = make_image(yard.tiny.layout, yard.tiny.base, "unknown:1", secrets.token_hex(8))
        with pytest.raises(ImageNotFoundError, match="unknown:1"):
            await yard.engine.start(yard.spec("unknown", image=image, image_name="unknown:1"))
        assert await yard.engine.list() == ()

    async def test_a_taken_name_is_refused_and_its_owner_untouched(self, yard: Yard) -> None:
        spec = yard.spec()
        first = await launch_alone(yard.engine, spec, runtime_folder=yard.runtime)
        with pytest.raises(EngineError, match=f"already has a container named '{spec.name}'"):
            await launch_alone(yard.engine, spec, runtime_folder=yard.runtime)
        assert (await ask(first)).endswith(b"tiny\n")
        assert len(await yard.engine.list()) == 1


class TestLife:
    async def test_sigterm_lets_it_end_by_itself_within_the_grace(self, yard: Yard) -> None:
        container = await launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime)
        begun = time.monotonic()
        assert await yard.engine.stop(container.id, grace=10) == 0
        assert time.monotonic() - begun < 3
        assert "drained" in await lines_of(yard.engine, container)

    async def test_sigkill_comes_after_the_grace(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("stubborn", "stubborn"))
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        assert await yard.engine.stop(container.id, grace=0.7) == 137
        assert 0.6 < time.monotonic() - begun < 4

    async def test_only_a_process_of_a_group_named_after_the_container_is_signalled(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("stops", "wait"))
        assert not send_signal(replace(container, id="another"), signal.SIGKILL)
        assert not send_signal(replace(container, pid=None), signal.SIGKILL)
        assert (await yard.engine.inspect(container.id)).state is State.RUNNING
        assert send_signal(container, signal.SIGKILL)
        assert await yard.engine.wait(container.id, 10) == 137
        assert not send_signal(container, signal.SIGKILL)

    async def test_stopping_twice_gives_the_same_exit_code(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("exit", "exit", "3"))
        assert await yard.engine.wait(container.id, 10) == 3
        assert await yard.engine.stop(container.id, grace=1) == 3
        ended = await yard.engine.inspect(container.id)
        assert (ended.state, ended.exit_code) == (State.EXITED, 3)

    async def test_waiting_has_a_deadline(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("waits", "wait"))
        with pytest.raises(EngineError, match="still runs"):
            await yard.engine.wait(container.id, 0.2)

    async def test_a_new_engine_object_sees_the_same_containers_and_only_ours(self, yard: Yard) -> None:
        labels = {"dev.example.revision": "7"}
        container = await launch_alone(yard.engine, yard.spec(labels=labels), runtime_folder=yard.runtime, publish=0)
        again = yard.reopen()
        try:
            (seen,) = await again.list()
            assert seen == container
            assert seen.image == "tiny:1"
            assert seen.labels["dev.example.revision"] == "7"
            assert seen.labels["dev.dockyard.model.name"] == "tiny"
            assert (await ask(seen, seen.ports[0])).endswith(b"tiny\n")
            assert await again.stop(seen.id, 5) == 0
        finally:
            await again.close()

    async def test_removal_leaves_nothing(self, yard: Yard) -> None:
        before = mount_points()
        container = await launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime)
        mounted = mount_points() - before
        assert container.socket is not None
        await yard.engine.remove(container.id)
        assert await yard.engine.list() == ()
        assert list(yard.runtime.iterdir()) == []
        async with asyncio.timeout(10):  # another engine of this host may have mounted something in between
            while mounted & mount_points():
                await asyncio.sleep(0.1)
        with pytest.raises(ContainerNotFoundError):
            await yard.engine.inspect(container.id)
        with pytest.raises(ContainerNotFoundError):
            await yard.engine.remove(container.name)

    async def test_names_do_where_ids_do(self, yard: Yard) -> None:
        container = await launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime)  # it heeds SIGTERM now
        assert (await yard.engine.inspect(container.name)).id == container.id
        assert await yard.engine.stop(container.name, 5) == 0


class TestFreezing:
    async def test_a_request_that_comes_while_it_is_frozen_is_answered_after_the_thaw(self, yard: Yard) -> None:
        container = await launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime)
        await yard.engine.freeze(container.id)
        assert (await yard.engine.inspect(container.id)).state is State.FROZEN
        asking = asyncio.create_task(ask(container))
        await asyncio.sleep(0.3)
        assert not asking.done()
        await yard.engine.thaw(container.id)
        assert (await asking).endswith(b"tiny\n")
        assert (await yard.engine.inspect(container.id)).state is State.RUNNING

    async def test_freezing_and_thawing_twice_does_nothing_more(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("waits", "wait"))
        for _ in range(2):
            await yard.engine.freeze(container.id)
        assert [each.state for each in await yard.engine.list()] == [State.FROZEN]
        for _ in range(2):
            await yard.engine.thaw(container.id)
        assert [each.state for each in await yard.engine.list()] == [State.RUNNING]

    async def test_what_does_not_run_is_not_frozen(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("exit", "exit", "3"))
        await yard.engine.wait(container.id, 10)
        for step in (yard.engine.freeze, yard.engine.thaw):
            with pytest.raises(EngineError, match="does not run"):
                await step(container.id)
            with pytest.raises(ContainerNotFoundError):
                await step("nobody")

    async def test_a_frozen_one_is_stopped_with_time_to_drain_and_removed_at_once(self, yard: Yard) -> None:
        first, second = [
            await launch_alone(yard.engine, yard.spec(), runtime_folder=yard.runtime),
            await yard.engine.start(yard.spec("stubborn", "stubborn")),
        ]
        for each in (first, second):
            await yard.engine.freeze(each.id)
        assert await yard.engine.stop(first.id, grace=10) == 0
        assert "drained" in await lines_of(yard.engine, first)
        begun = time.monotonic()
        await yard.engine.remove(second.id)
        assert time.monotonic() - begun < 5


class TestEnding:
    async def test_one_that_runs_has_a_process_of_this_host_and_no_ending(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("waits", "wait"))
        assert container.pid is not None
        assert Path(f"/proc/{container.pid}/exe").readlink().name == "tiny"
        assert (container.ending, container.exit_code, container.oom_killed) == (None, None, False)

    async def test_the_end_says_whether_it_was_killed_for_memory(self, yard: Yard) -> None:
        eats = await yard.engine.start(yard.spec("eat", "eat", "200"))
        killed = await yard.engine.start(yard.spec("waits", "wait"))
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        ends = await yard.engine.start(yard.spec("exit", "exit", "3"))
        for each in (eats, killed, ends):
            await yard.engine.wait(each.id, 20)
        found = {each.id: each for each in await yard.engine.list()}
        assert found[eats.id].ending == Ending(137, oom_killed=True)
        assert found[killed.id].ending == Ending(137)
        assert found[ends.id].ending == Ending(3)
        assert {each.pid for each in found.values()} == {None}

    async def test_a_start_that_fails_for_memory_says_so(self, yard: Yard) -> None:
        with pytest.raises(StartError, match="killed for memory") as caught:
            await launch_alone(yard.engine, yard.spec("eat", "eat", "200"), runtime_folder=yard.runtime)
        assert "memory" in caught.value.remedy

    async def test_many_can_be_waited_for_at_once_while_other_things_are_asked(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("waits", "wait"))
        waits = [asyncio.create_task(yard.engine.wait(container.id)) for _ in range(300)]
        await asyncio.sleep(1)
        async with asyncio.timeout(20):
            assert await yard.engine.stop(container.id, 5) == 0
            assert set(await asyncio.gather(*waits)) == {0}


class TestListeners:
    """A replica's listening socket is the host's; containers come and go on it."""

    async def test_connections_that_wait_when_it_is_killed_are_answered_by_the_next(self, yard: Yard) -> None:
        with Listener.bind(yard.runtime / "replica") as listener:
            first = await launch(yard.engine, yard.spec(), listener)
            await yard.engine.freeze(first.id)
            asking = [asyncio.create_task(ask(first)) for _ in range(32)]
            await asyncio.sleep(0.2)
            assert first.pid is not None
            os.kill(first.pid, signal.SIGKILL)
            await yard.engine.remove(first.id)
            assert listener.waiting
            await launch(yard.engine, yard.spec(), listener)
            answers = await asyncio.gather(*asking)
        assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers] == [b"tiny\n"] * 32

    async def test_a_connection_to_a_replica_without_a_container_wakes_whoever_watches(self, yard: Yard) -> None:
        with Listener.bind(yard.runtime / "replica") as listener:
            woken = asyncio.Event()
            asyncio.get_running_loop().add_reader(listener.fileno(), woken.set)
            first = await launch(yard.engine, yard.spec(), listener)
            await yard.engine.stop(first.id, 5)
            await yard.engine.remove(first.id)
            assert not listener.waiting
            asking = asyncio.create_task(ask(first))
            async with asyncio.timeout(5):
                await woken.wait()
            asyncio.get_running_loop().remove_reader(listener.fileno())
            await launch(yard.engine, yard.spec(), listener)
            assert (await asking).endswith(b"tiny\n")

    async def test_a_start_that_fails_leaves_the_listener_as_it_was(self, yard: Yard) -> None:
        with Listener.bind(yard.runtime / "replica") as listener:
            with pytest.raises(StartError):
                await launch(yard.engine, yard.spec("fails", "serve", "broken"), listener)
            assert [path.name for path in listener.folder.iterdir()] == ["http.sock"]
            second = await launch(yard.engine, yard.spec(), listener)
            assert (await ask(second)).endswith(b"tiny\n")

    async def test_a_new_owner_gets_the_listener_back_from_the_container(self, yard: Yard) -> None:
        listener = Listener.bind(yard.runtime / "replica")
        first = await launch(yard.engine, yard.spec(), listener)
        listener.close()
        assert first.socket is not None
        assert first.pid is not None
        again = recover(first.pid, first.socket)
        assert again is not None
        with again:
            await yard.engine.freeze(first.id)
            asking = asyncio.create_task(ask(first))
            await asyncio.sleep(0.1)
            await yard.engine.remove(first.id)
            second = await launch(yard.engine, yard.spec(), again)
            assert (await asking).endswith(b"tiny\n")
            assert (await ask(second)).endswith(b"tiny\n")


class TestAccess:
    async def test_a_mount_is_read_only_unless_said_otherwise(self, yard: Yard, tmp_path: Path) -> None:
        (tmp_path / "shown").mkdir()
        (tmp_path / "shown" / "note").write_text("hello")
        (tmp_path / "file").write_text("a file")
        (tmp_path / "kept").mkdir(mode=0o777)
        (tmp_path / "kept").chmod(0o777)
        mounts = (
            Mount(source=str(tmp_path / "shown"), target="/deep/down/shown"),
            Mount(source=str(tmp_path / "file"), target="/etc/single"),
            Mount(source=str(tmp_path / "kept"), target="/kept", writable=True),
        )
        script = """cat /deep/down/shown/note /etc/single; echo again > /deep/down/shown/note; echo kept > /kept/note
            echo more > /etc/single; true"""
        finished = await yard.shell(script, mounts=mounts)
        assert finished.stdout == b"helloa file"
        assert finished.stderr.count(b"Read-only file system") == 2
        assert (tmp_path / "kept" / "note").read_text() == "kept\n"

    async def test_sources_that_give_away_the_host_are_refused_by_name(self, yard: Yard, short_path: Path) -> None:
        (short_path / "link").symlink_to("/run")
        (short_path / "way").mkdir()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(short_path / "other.sock"))
            for source, rule in {
                "/": "contains /",
                "/run": "contains /run",
                "/proc/1": "lies in /proc",
                str(short_path / "link"): "contains /run",
                str(short_path / "other.sock"): "neither a folder nor a file",
                str(short_path / "missing"): "No such file",
            }.items():
                with pytest.raises(EngineError, match=rule):
                    await yard.engine.start(yard.spec(mounts=(Mount(source=source, target="/data"),)))
        assert await yard.engine.list() == ()

    async def test_secrets_are_files_of_its_user_in_memory_and_on_no_disk(self, yard: Yard, tmp_path: Path) -> None:
        (tmp_path / "password").write_bytes(b"from a file")
        secrets_given = {"token": b"in \0 memory", "password": tmp_path / "password"}
        script = (
            "cd /run/secrets; stat -c '%a %u %n' . *; cat password token; stat -f -c %T .; echo x > new; rm -f token"
        )
        finished = await yard.shell(script, secrets=secrets_given)
        *modes, content = finished.stdout.splitlines()
        assert modes == [b"500 65532 .", b"400 65532 password", b"400 65532 token"]
        where = {b"tmpfs", b"ramfs"}  # before Linux 6.4 a tmpfs cannot be kept from swap
        assert content.removeprefix(b"from a filein \0 memory") in where
        assert finished.stderr.count(b"Read-only file system") == 2
        assert secrets_of("shell") == []

    async def test_secrets_stay_as_long_as_the_container_and_go_with_it(self, yard: Yard) -> None:
        spec = yard.spec("waits", "wait", secrets={"token": b"precious"})
        assert "precious" not in repr(spec)
        container = await yard.engine.start(spec)
        (folder,) = secrets_of(spec.name)
        assert folder.stat().st_uid == 65532
        assert SECRETS.stat().st_mode & 0o777 == 0o700
        await yard.engine.stop(container.id, 5)
        assert (folder / "token").read_bytes() == b"precious"
        await yard.engine.remove(container.id)
        assert secrets_of(spec.name) == []
        again = await yard.engine.start(spec)
        (folder,) = secrets_of(spec.name)
        assert (folder / "token").read_bytes() == b"precious"
        await yard.engine.remove(again.id)

    async def test_a_start_that_fails_leaves_no_secret(self, yard: Yard, tmp_path: Path) -> None:
        container = await yard.engine.start(yard.spec("waits", "wait"))
        given = {"token": b"precious"}
        with pytest.raises(EngineError, match="already has"):
            await yard.engine.start(replace(yard.spec(), name=container.name, secrets=given))
        spec = yard.spec(secrets={**given, "other": tmp_path / "missing"})
        with pytest.raises(EngineError, match="secret other cannot be read"):
            await yard.engine.start(spec)
        assert secrets_of(container.name) + secrets_of(spec.name) == []
        assert len(await yard.engine.list()) == 1


class TestLogs:
    async def test_lines_come_whole_and_in_order_and_the_tail_is_the_end(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("talks", "chatter", "50"))
        await yard.engine.wait(container.id, 10)
        assert await lines_of(yard.engine, container) == [f"line {number}" for number in range(1, 51)]
        assert await lines_of(yard.engine, container, tail=2) == ["line 49", "line 50"]
        assert await lines_of(yard.engine, container, tail=0) == []

    async def test_following_shows_lines_as_they_come_and_ends_with_the_container(self, yard: Yard) -> None:
        container = await yard.engine.start(yard.spec("talks", "chatter", "8", "100"))
        async with asyncio.timeout(15):
            arrived = [(line, time.monotonic()) async for line in yard.engine.logs(container.id, follow=True)]
        assert [line for line, _ in arrived] == [f"line {number}" for number in range(1, 9)]
        assert arrived[-1][1] - arrived[0][1] > 0.3

    async def test_logs_of_an_unknown_container_are_an_error(self, yard: Yard) -> None:
        with pytest.raises(ContainerNotFoundError):
            _ = [line async for line in yard.engine.logs("nobody")]


class TestOnce:
    async def test_output_and_errors_come_back_apart_byte_for_byte(self, yard: Yard) -> None:
        question = os.urandom(300_000)
        finished = await run_once(yard.engine, yard.spec("echo", "echo"), question)
        assert finished.stdout == question
        assert finished.stderr == b"echoed 300000 bytes\n"
        assert finished.exit_code == 3
        assert await yard.engine.list() == ()

    async def test_without_input_the_program_reads_the_end(self, yard: Yard) -> None:
        finished = await run_once(yard.engine, yard.spec("echo", "echo"))
        assert (finished.stdout, finished.stderr) == (b"", b"echoed 0 bytes\n")

    async def test_a_program_that_does_not_read_its_input_does_not_block(self, yard: Yard) -> None:
        finished = await run_once(yard.engine, yard.spec("exit", "exit", "5"), bytes(5_000_000), deadline=20)
        assert (finished.exit_code, finished.stderr) == (5, b"cannot go on\n")

    async def test_what_does_not_end_in_time_is_removed(self, yard: Yard) -> None:
        with pytest.raises(EngineError, match="did not end within 1 s"):
            await run_once(yard.engine, yard.spec("waits", "wait"), deadline=1)
        assert await yard.engine.list() == ()

    async def test_environment_of_image_and_spec_arrive(self, yard: Yard) -> None:
        spec = yard.spec("env", "report", environment={"SETTING": "a = b"})
        finished = await run_once(yard.engine, spec)
        assert b"setting=a = b\n" in finished.stdout
        assert b"baked=in the image\n" in finished.stdout


class TestLoading:
    async def test_a_second_load_moves_nothing(self, yard: Yard) -> None:
        loaded = await yard.engine.load(yard.tiny.image, yard.tiny.layout, "tiny:again")
        assert (loaded.moved_layers, loaded.moved_bytes) == (0, 0)

    async def test_after_a_change_of_the_last_layer_one_layer_moves(self, yard: Yard) -> None:
        note = secrets.token_hex(16)
        reader = replace(CONFIG, entrypoint=("/bin/busybox", "cat"), command=("/app/note.txt",))
        changed = make_image(yard.tiny.layout, yard.tiny.base, "tiny:2", note, reader)
        loaded = await yard.engine.load(changed, yard.tiny.layout, "tiny:2")
        if not yard.podman:  # it takes whole archives alone
            assert loaded.moved_layers == 1
            assert loaded.moved_bytes < 20_000
        assert (await run_once(yard.engine, yard.spec("note", image=changed))).stdout == note.encode()

    async def test_a_damaged_layer_is_refused(self, yard: Yard, tmp_path: Path) -> None:
        layout = Layout.create(tmp_path / "layout")
        source = yard.tiny.layout
        image = make_image(source, yard.tiny.base, "damaged:1", secrets.token_hex(16))
        for blob in image.blobs:
            layout.blobs.write(source.blobs.path(blob.digest).read_bytes())
        victim = layout.blobs.path(image.layers[-1].digest)
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(bytes(data))
        with pytest.raises(ImageError):
            await yard.engine.load(image, layout, "damaged:1")
        with pytest.raises(ImageNotFoundError):
            await yard.engine.start(yard.spec("damaged", image=image))
