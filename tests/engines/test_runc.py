"""What only the runc engine must do by itself: layers, roots, monitors, logs, and order after a crash of anything."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path

import pytest

from dockyard.engines.base import Attached, Container, ContainerSpec, State
from dockyard.engines.once import run_once
from dockyard.engines.runc.engine import RuncEngine
from dockyard.engines.runc.layers import LayerStore
from dockyard.engines.runc.usage import Used, used_by
from dockyard.errors import EngineError, ImageNotFoundError
from dockyard.oci.digest import hex_of
from dockyard.oci.image import Descriptor, Image, LayerBlob
from dockyard.oci.layer import Entry, write_layer
from dockyard.oci.layout import Layout
from dockyard.oci.media import LAYER_OF_CODEC
from dockyard.spec.deployment import Mount
from dockyard.spec.resources import Resources
from tests.conftest import TinyImage
from tests.support.processes import lives, monitor_of
from tests.support.tiny_image import CONFIG, make_image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runc needs root")

RUNC = Path("/usr/sbin/runc")
LIST = replace(CONFIG, entrypoint=("/bin/busybox", "find", "/app", "-type", "f"), command=())


@pytest.fixture
async def engine(short_path: Path, tiny_image: TinyImage) -> AsyncIterator[RuncEngine]:
    made = RuncEngine(short_path, RUNC)
    await made.load(tiny_image.image, tiny_image.layout, "tiny:1")
    yield made
    for container in await made.list():
        await made.remove(container.id)


def spec_of(image: Image, *command: str) -> ContainerSpec:
    limits = Resources(memory=64 << 20, pids=16)
    return ContainerSpec(f"tiny-{secrets.token_hex(4)}", image, command=command, resources=limits)


def raw_layer(layout: Layout, files: dict[str, bytes]) -> LayerBlob:
    """A plain layer with any names, whiteouts among them, which `write_layer` does not write."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    digest = layout.blobs.write(buffer.getvalue())
    return LayerBlob(Descriptor(LAYER_OF_CODEC["none"], digest, len(buffer.getvalue())), digest)


async def until(condition, deadline: float = 10.0) -> None:
    async with asyncio.timeout(deadline):
        while not condition():
            await asyncio.sleep(0.05)


async def test_one_that_yields_does_so_from_its_first_instruction_and_its_monitor_only_meanwhile(
    engine: RuncEngine, tiny_image: TinyImage
) -> None:
    usual, yielding = (spec_of(tiny_image.image, "wait") for _ in range(2))
    for spec, policy in ((usual, os.SCHED_OTHER), (replace(yielding, yielding=True), os.SCHED_IDLE)):
        container = await engine.start(spec)
        assert container.pid is not None
        assert os.sched_getscheduler(container.pid) == policy
        assert os.sched_getscheduler(monitor_of(spec.name)) == os.SCHED_OTHER


class TestRoots:
    async def test_files_that_a_layer_deletes_are_gone_and_opaque_folders_hide(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        layout = tiny_image.layout
        lower = [
            Entry("app/gone.txt", 0o644, "file", b"x"),
            Entry("app/kept.txt", 0o644, "file", b"x"),
            Entry("app/data/hidden.txt", 0o644, "file", b"x"),
        ]
        below = write_layer(lower, "gzip", layout.blobs)
        above = raw_layer(layout, {"app/.wh.gone.txt": b"", "app/data/.wh..wh..opq": b"", "app/data/new.txt": b"y"})
        image = make_image(layout, [*tiny_image.base, below, above], "whiteouts:1", "note", LIST)
        await engine.load(image, layout, "whiteouts:1")
        for _ in range(2):
            finished = await run_once(engine, spec_of(image))
            assert sorted(finished.stdout.decode().split()) == ["/app/data/new.txt", "/app/kept.txt", "/app/note.txt"]
        assert len(list((short_path / "trees").iterdir())) == 1

    async def test_more_layers_than_an_overlay_takes_still_start(
        self, engine: RuncEngine, tiny_image: TinyImage
    ) -> None:
        layout = tiny_image.layout
        many = [
            write_layer([Entry(f"app/{number:03}", 0o644, "file", b"x")], "none", layout.blobs) for number in range(70)
        ]
        image = make_image(layout, [*tiny_image.base, *many], "many:1", "note", LIST)
        await engine.load(image, layout, "many:1")
        finished = await run_once(engine, spec_of(image))
        assert len(finished.stdout.split()) == 71

    async def test_a_kernel_that_refuses_the_overlay_gets_a_tree(
        self, engine: RuncEngine, tiny_image: TinyImage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(LayerStore, "overlay", lambda *_: ("missing", "skeleton"))
        finished = await run_once(engine, spec_of(tiny_image.image, "report"))
        assert b"write_root=EROFS" in finished.stdout

    async def test_a_layer_whose_unpacking_was_cut_short_is_unpacked_again(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        victim = sorted((short_path / "layers").glob("*.json"))[0]
        victim.unlink()
        loaded = await engine.load(tiny_image.image, tiny_image.layout, "tiny:1")
        assert loaded.moved_layers == 1
        assert (await run_once(engine, spec_of(tiny_image.image, "exit", "0"))).exit_code == 0

    async def test_two_loads_at_once_unpack_each_layer_once(self, tiny_image: TinyImage, short_path: Path) -> None:
        engines = [RuncEngine(short_path / "both", RUNC) for _ in range(3)]
        loads = [each.load(tiny_image.image, tiny_image.layout, "tiny:1") for each in engines]
        assert sum(loaded.moved_layers for loaded in await asyncio.gather(*loads)) == 3

    async def test_the_host_sees_no_mount_of_a_running_container(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        await engine.start(spec_of(tiny_image.image, "wait"))
        assert str(short_path) not in Path("/proc/self/mountinfo").read_text()


class TestRefusals:
    @pytest.mark.parametrize(
        ("wish", "said"),
        [({"tcp_port": 8000}, "TCP port"), ({"network": "out"}, "network"), ({"gpus": ("0",)}, "GPUs")],
    )
    async def test_what_only_docker_has_is_refused_before_anything_is_made(
        self, engine: RuncEngine, tiny_image: TinyImage, wish: dict[str, object], said: str
    ) -> None:
        with pytest.raises(EngineError, match=f"{said}.*runc engine does not have") as caught:
            await engine.start(replace(spec_of(tiny_image.image), **wish))
        assert 'engine = "docker"' in caught.value.remedy
        assert await engine.list() == ()

    async def test_its_own_folders_are_never_mounted(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        for source in (short_path, short_path / "layers"):
            with pytest.raises(EngineError, match="may not be mounted"):
                await engine.start(
                    replace(spec_of(tiny_image.image), mounts=(Mount(source=str(source), target="/data"),))
                )

    async def test_a_mount_works_in_a_tree_too(
        self, engine: RuncEngine, tiny_image: TinyImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(LayerStore, "overlay", lambda *_: ())
        (tmp_path / "shown").mkdir()
        (tmp_path / "shown" / "note").write_text("hello")
        reader = replace(CONFIG, entrypoint=("/bin/busybox", "cat", "/data/note"), command=())
        image = make_image(tiny_image.layout, tiny_image.base, "reader:1", "", reader)
        await engine.load(image, tiny_image.layout, "reader:1")
        mounts = (Mount(source=str(tmp_path / "shown"), target="/data"),)
        assert (await run_once(engine, replace(spec_of(image), mounts=mounts))).stdout == b"hello"

    async def test_there_is_nothing_to_warn_of(self, engine: RuncEngine) -> None:
        assert await engine.warnings() == ()


class TestLogs:
    async def test_the_log_stays_small_and_keeps_the_end(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        container = await engine.start(spec_of(tiny_image.image, "flood", "40"))
        folder = short_path / "containers" / container.name
        older, log = folder / "log.1", folder / "log"

        def settled() -> bool:
            """All is written, and what was too much has been put aside."""
            try:
                sizes = older.stat().st_size, log.stat().st_size
                ended = any(b"the end" in file.read_bytes()[-100:] for file in (older, log))
            except FileNotFoundError:
                return False
            return ended and sizes[0] <= 11 << 20 and sizes[1] <= 10 << 20

        await until(settled)
        assert [line async for line in engine.logs(container.id, tail=1)] == ["the end"]

    async def test_a_follower_goes_on_after_the_log_was_emptied(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        container = await engine.start(spec_of(tiny_image.image, "chatter", "20", "50"))
        log = short_path / "containers" / container.name / "log"
        seen = []
        async with asyncio.timeout(10):
            async for line in engine.logs(container.id, follow=True):
                seen.append(line)
                if len(seen) == 5:
                    os.truncate(log, 0)
        assert seen[-1] == "line 20"


class TestCrashes:
    async def test_a_container_outlives_the_process_that_started_it(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        code = f"""
import asyncio, os, signal
from pathlib import Path
from dockyard.engines.base import ContainerSpec
from dockyard.engines.launch import launch_alone
from dockyard.engines.runc.engine import RuncEngine
from dockyard.oci.layout import Layout
image = Layout.open(Path({str(tiny_image.layout.path)!r})).resolve("tiny:1")
engine = RuncEngine(Path({str(short_path)!r}), Path({str(RUNC)!r}))
asyncio.run(launch_alone(engine, ContainerSpec("survivor", image), runtime_folder=Path({str(short_path)!r}) / "run"))
os.kill(os.getpid(), signal.SIGKILL)
"""
        done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False, start_new_session=True)
        assert done.returncode == -signal.SIGKILL
        (container,) = await engine.list()
        assert (container.name, container.state) == ("survivor", State.RUNNING)
        reader, writer = await asyncio.open_unix_connection(container.socket)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"tiny\n")
        writer.close()
        assert await engine.stop("survivor", 5) == 0

    async def test_a_container_goes_on_without_its_monitor_and_its_exit_code_is_then_unknown(
        self, engine: RuncEngine, tiny_image: TinyImage
    ) -> None:
        container = await engine.start(spec_of(tiny_image.image, "wait"))
        os.kill(monitor_of(container.name), signal.SIGKILL)
        await asyncio.sleep(0.1)
        assert (await engine.inspect(container.id)).state is State.RUNNING
        with pytest.raises(EngineError, match="still runs"):
            await engine.wait(container.id, 0.1)
        assert await engine.stop(container.id, 5) is None
        assert await engine.stop(container.id, 5) is None
        with pytest.raises(EngineError, match="exit code is not known"):
            await engine.wait(container.id, 5)
        ended = await engine.inspect(container.id)
        assert (ended.state, ended.exit_code) == (State.EXITED, None)
        await engine.remove(container.id)
        assert await engine.list() == ()

    async def test_after_a_restart_of_the_machine_nothing_counts_as_running(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        container = await engine.start(spec_of(tiny_image.image, "wait"))
        record = short_path / "containers" / container.name / "state.json"
        life = json.loads(record.read_bytes())
        record.write_text(json.dumps({**life, "boot": "another"}))
        assert (await engine.inspect(container.id)).state is State.EXITED
        record.write_text(json.dumps({**life, "born": life["born"] + 1}))
        assert (await engine.inspect(container.id)).state is State.EXITED
        os.kill(life["pid"], 0)
        record.write_text(json.dumps(life))
        assert (await engine.inspect(container.id)).state is State.RUNNING

    async def test_half_made_folders_are_no_containers_and_do_not_take_a_name(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        (short_path / "containers" / ".new-123456").mkdir(parents=True)
        assert await engine.list() == ()
        spec = spec_of(tiny_image.image, "exit", "0")
        await engine.start(spec)
        assert [container.name for container in await engine.list()] == [spec.name]

    async def test_the_monitor_ends_with_its_container_and_stays_small(
        self, engine: RuncEngine, tiny_image: TinyImage
    ) -> None:
        container = await engine.start(spec_of(tiny_image.image, "wait"))
        monitor = monitor_of(container.name)
        status = Path(f"/proc/{monitor}/status").read_text()
        assert int(status.split("VmRSS:")[1].split()[0]) < 20_000
        await engine.stop(container.id, 5)

        await until(lambda: not lives(monitor))

    async def test_ids_from_outside_cannot_leave_the_folder(self, engine: RuncEngine) -> None:
        for hostile in ("..", "../layers", "/etc", ""):
            with pytest.raises(EngineError, match="no container"):
                await engine.remove(hostile)

    async def test_removal_kills_a_container_that_runs_at_once(self, engine: RuncEngine, tiny_image: TinyImage) -> None:
        container = await engine.start(spec_of(tiny_image.image, "stubborn"))
        begun = time.monotonic()
        await engine.remove(container.id)
        assert time.monotonic() - begun < 3
        assert not list(Path("/sys/fs/cgroup").glob(f"**/dockyard-*{container.name}"))


SHELL = replace(CONFIG, entrypoint=("/bin/busybox", "sh", "-c", "while read path; do /bin/busybox cat $path; done"))


def reader_of(tiny: TinyImage, name: str, note: str, *more: LayerBlob) -> Image:
    """An image whose container starts a process for each path that it reads, which prints that file."""
    return make_image(tiny.layout, [*tiny.base, *more], name, note, replace(SHELL, command=()))


async def ask_for(attached: Attached, path: str) -> str:
    """What a new process in such a container prints."""
    await attached.write(f"{path}\n".encode())
    async with asyncio.timeout(10):
        async for piece in attached.output():
            return f"{piece.stream}: {piece.data.decode()}"
    return "it has ended"


def names_of(image: Image) -> list[str]:
    return [hex_of(diff_id) for diff_id in image.config.diff_ids]


def unpacked(home: Path) -> set[str]:
    """What there is of layers, by record or folder, and of anything beside them."""
    found = {path.name.removesuffix(".json") for path in (home / "layers").iterdir()}
    return found - {".lock", ".starting", ".partial", "skeleton"}


def grow_old(home: Path, seconds: float = 7200) -> None:
    """As if all that is unpacked had been so for a while."""
    for path in (*(home / "layers").iterdir(), *(home / "trees").glob("*")):
        os.utime(path, (time.time() - seconds,) * 2, follow_symlinks=False)


class TestPruning:
    async def test_layers_of_images_that_are_not_needed_go_and_shared_ones_stay(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        other = make_image(tiny_image.layout, tiny_image.base, "other:1", "x" * 5000)
        await engine.load(other, tiny_image.layout, "other:1")
        everything = unpacked(short_path)
        assert await engine.prune([tiny_image.image], 3600) == 0
        assert unpacked(short_path) == everything, "what was just loaded may be about to start"
        grow_old(short_path)
        assert await engine.prune([tiny_image.image], 3600) == 5000
        assert unpacked(short_path) == set(names_of(tiny_image.image))
        assert (await run_once(engine, spec_of(tiny_image.image, "exit", "0"))).exit_code == 0
        with pytest.raises(ImageNotFoundError):
            await engine.start(spec_of(other))
        assert (await engine.load(other, tiny_image.layout, "other:1")).moved_layers == 1
        assert (await run_once(engine, spec_of(other, "exit", "0"))).exit_code == 0

    async def test_a_load_of_what_is_there_already_counts_as_new(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        grow_old(short_path)
        assert (await engine.load(tiny_image.image, tiny_image.layout, "tiny:1")).moved_layers == 0
        await engine.prune([], 3600)
        assert unpacked(short_path) == set(names_of(tiny_image.image))

    async def test_a_container_keeps_its_layers_and_works_on_until_it_is_removed(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        image = reader_of(tiny_image, "reader:1", "a note")
        await engine.load(image, tiny_image.layout, "reader:1")
        async with engine.attach(spec_of(image)) as attached:
            await engine.prune([], 0)
            assert unpacked(short_path) == set(names_of(image))
            assert await ask_for(attached, "/app/note.txt") == "stdout: a note"
        assert await engine.prune([], 0) > 0
        assert unpacked(short_path) == set()
        assert (short_path / "layers" / "skeleton" / "etc" / "hosts").is_file()
        await engine.load(image, tiny_image.layout, "reader:1")
        async with engine.attach(spec_of(image)) as attached:
            assert await ask_for(attached, "/app/note.txt") == "stdout: a note"

    async def test_a_tree_stays_while_it_is_needed_or_a_container_has_it(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        layout = tiny_image.layout
        below = write_layer([Entry("app/gone.txt", 0o644, "file", b"x" * 700)], "none", layout.blobs)
        above = raw_layer(layout, {"app/.wh.gone.txt": b"", "app/new.txt": b"y" * 70})
        image = reader_of(tiny_image, "tree:1", "a note", below, above)
        await engine.load(image, layout, "tree:1")
        trees = short_path / "trees"
        async with engine.attach(spec_of(image)) as attached:
            await engine.prune([image], 0)
            assert unpacked(short_path) == set(names_of(image))
            freed = await engine.prune([], 0)
            assert unpacked(short_path) == set(), "its files are the tree's now"
            assert freed == 700, "what the tree shares is not free"
            assert len(list(trees.iterdir())) == 1
            assert await ask_for(attached, "/app/note.txt") == "stdout: a note"
        await engine.load(image, layout, "tree:1")
        await engine.prune([image], 0)
        grow_old(short_path)
        async with engine.attach(spec_of(image)):
            pass
        await engine.prune([], 3600)
        assert len(list(trees.iterdir())) == 1, "it was used just now"
        grow_old(short_path)
        assert await engine.prune([], 3600) > 70
        assert (list(trees.iterdir()), unpacked(short_path)) == ([], set())

    async def test_a_container_that_fell_back_to_a_tree_does_not_lose_it_meanwhile(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = reader_of(tiny_image, "reader:1", "a note")
        await engine.load(image, tiny_image.layout, "reader:1")
        made = LayerStore.tree

        def pruned_after(store: LayerStore, image: Image) -> Path:
            found = made(store, image)
            store.prune([], 0, lambda: used_by(short_path / "containers"))
            return found

        monkeypatch.setattr(LayerStore, "overlay", lambda *_: ("missing", "skeleton"))
        monkeypatch.setattr(LayerStore, "tree", pruned_after)
        async with engine.attach(spec_of(image)) as attached:
            assert await ask_for(attached, "/app/note.txt") == "stdout: a note"

    async def test_a_kill_half_way_leaves_nothing_that_counts_and_nothing_for_ever(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        code = f"""
import asyncio, os, signal
from pathlib import Path
from dockyard.engines.runc import layers
from dockyard.engines.runc.engine import RuncEngine
layers._put_aside = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(RuncEngine(Path({str(short_path)!r}), Path({str(RUNC)!r})).prune([], 0))
"""
        done = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
        assert done.returncode == -signal.SIGKILL
        assert unpacked(short_path) == set(names_of(tiny_image.image)), "their folders are still there"
        with pytest.raises(ImageNotFoundError):
            await engine.start(spec_of(tiny_image.image))
        left = short_path / "layers" / f".{'0' * 64}.partial-1-aa", short_path / "layers" / ".gone-aa"
        for folder in left:
            folder.mkdir()
            (folder / "weights").write_bytes(b"x" * 100)
        assert await engine.prune([tiny_image.image], 3600) == 200
        assert unpacked(short_path) == set(names_of(tiny_image.image)), "young ones may be asked for again at once"
        assert (await engine.load(tiny_image.image, tiny_image.layout, "tiny:1")).moved_layers == 3
        assert (await run_once(engine, spec_of(tiny_image.image, "exit", "0"))).exit_code == 0
        (short_path / "layers" / f"{names_of(tiny_image.image)[0]}.json").unlink()
        grow_old(short_path)
        assert await engine.prune([tiny_image.image], 3600) > 0
        assert unpacked(short_path) == set(names_of(tiny_image.image)[1:])

    @pytest.mark.parametrize("name", ["half", ".new-123456"])
    async def test_while_a_container_is_half_made_nothing_goes_unless_a_kill_left_it(
        self, name: str, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        folder = short_path / "containers" / name
        folder.mkdir(parents=True)
        assert await engine.prune([], 0) == 0
        (folder / "plan").write_text("/usr/sbin/runc\n/cut/off")
        assert await engine.prune([], 0) == 0
        assert unpacked(short_path) == set(names_of(tiny_image.image))
        os.utime(folder, (time.time() - 7200,) * 2)
        assert await engine.prune([], 0) > 0
        assert unpacked(short_path) == set()

    async def test_where_nothing_was_ever_unpacked_nothing_is_made(
        self, tiny_image: TinyImage, short_path: Path
    ) -> None:
        assert await RuncEngine(short_path / "unused", RUNC).prune([tiny_image.image], 0) == 0
        assert not (short_path / "unused").exists()

    async def test_a_start_waits_for_a_pruning_that_has_looked_already(
        self, engine: RuncEngine, tiny_image: TinyImage, short_path: Path
    ) -> None:
        loop, spec = asyncio.get_running_loop(), spec_of(tiny_image.image, "wait")
        started: list[Future[Container]] = []

        def looked_then_started() -> Used | None:
            found = used_by(short_path / "containers")
            started.append(asyncio.run_coroutine_threadsafe(engine.start(spec), loop))
            wait(started, 1)
            return found

        store = LayerStore(short_path / "layers")
        assert await asyncio.to_thread(store.prune, [], 0, looked_then_started) > 0
        with pytest.raises(ImageNotFoundError):
            await asyncio.wrap_future(started[0])
        assert await engine.list() == ()
        assert not list((short_path / "containers").iterdir())
