"""The `runc` engine: containers with runc and the kernel alone, for root on a host without a daemon.

`detect` makes it, `launch`, `once` and the command line use it through `Engine`. Everything that it knows is in its
home folder, so any number of these objects, in any process, see the same containers; `records.py` says how.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockyard.engines import access, secrets
from dockyard.engines import labels as label
from dockyard.engines.base import (
    LOG_BYTES,
    Attached,
    Container,
    ContainerSpec,
    Loaded,
    State,
    docker_only,
    is_name,
    name_taken,
    not_running,
    still_running,
    unknown_container,
    unknown_image,
)
from dockyard.engines.removal import finish, remove_surely
from dockyard.engines.runc import freezer, lives, programs, records
from dockyard.engines.runc.bundle import Bundle, host_features, runtime_config
from dockyard.engines.runc.layers import LayerStore
from dockyard.engines.runc.logs import read_log
from dockyard.engines.runc.programs import Outcome, Started
from dockyard.engines.runc.streams import PipedContainer
from dockyard.engines.runc.usage import used_by
from dockyard.errors import DockyardError, EngineError, StartError
from dockyard.oci.files import store_errors
from dockyard.oci.image import Image
from dockyard.oci.layout import Layout
from dockyard.spec.deployment import Mount

_KILL_PATIENCE = 10.0
_MOUNT_POINTS = "points"


@dataclass(frozen=True)
class _Places:
    """The folders of one home."""

    layers: Path
    containers: Path
    state: Path


@dataclass(frozen=True)
class _Root:
    """What a container's root is made of: folders to lay over each other (or none: a tree), and mounts in it."""

    lower: tuple[str, ...]
    mounts: tuple[Mount, ...]


class RuncEngine:
    """Containers of one `home` folder, started with the runc at `program`. Needs root; EngineError without."""

    name = records.ENGINE

    def __init__(self, home: Path, program: Path) -> None:
        if os.geteuid() != 0:
            raise EngineError(
                "the runc engine works for root only, and this is another user",
                remedy="Run this as root, or install Docker and let this user talk to it.",
            )
        root = home.absolute()
        self._program = program
        self._places = _Places(root / "layers", root / "containers", root / "state")
        self._layers = LayerStore(self._places.layers)
        # Not below a group of their own: what one replica takes, its siblings there could not have.
        self._cgroups = "/dockyard-" + hashlib.sha256(str(root).encode()).hexdigest()[:8]

    async def load(self, image: Image, layout: Layout, name: str) -> Loaded:
        """Unpack the layers that are not here yet. Layers are known by content; the name is not kept."""
        begun = time.monotonic()
        moved = await asyncio.to_thread(self._layers.add, image, layout)
        return Loaded(moved.layers, moved.bytes, time.monotonic() - begun)

    async def check(self, spec: ContainerSpec) -> None:
        """What takes networks and device plug-ins."""
        _refuse_what_is_dockers(spec)

    async def start(self, spec: ContainerSpec) -> Container:
        """Start a container under a monitor of its own that writes its log."""
        await finish(self._begin(spec, log_bytes=LOG_BYTES), undo=self._undo(spec))
        return self._read(spec.name)

    @asynccontextmanager
    async def attach(self, spec: ContainerSpec) -> AsyncIterator[Attached]:
        """Start a container with its streams as pipes to us."""
        started = await finish(self._begin(spec, log_bytes=0), undo=self._undo(spec))
        attached = PipedContainer(self._read(spec.name), started.process)
        try:
            yield attached
        finally:
            await remove_surely(self, spec.name)
            await attached.close()

    async def list(self) -> tuple[Container, ...]:
        """The containers of this home, by name."""
        return await asyncio.to_thread(self._read_all)

    async def inspect(self, container_id: str) -> Container:
        """One container, read from its folder."""
        return self._read(container_id)

    async def logs(self, container_id: str, *, follow: bool = False, tail: int | None = None) -> AsyncIterator[str]:
        """Lines of its log; at most the last 20 MiB or so are kept."""
        folder = self._folder(container_id)
        alive = lambda: folder.is_dir() and self._read(container_id).state is not State.EXITED  # noqa: E731
        async for line in read_log(folder, tail, follow=follow, alive=alive):
            yield line

    async def freeze(self, container_id: str) -> None:
        """By the kernel's freezer."""
        await freezer.freeze(self._pid(container_id))

    async def thaw(self, container_id: str) -> None:
        """By the kernel's freezer."""
        freezer.thaw(self._pid(container_id))

    async def stop(self, container_id: str, grace: float = 30.0) -> int | None:
        """SIGTERM, then SIGKILL, to the container's first process."""
        folder = self._folder(container_id)
        lives.send(folder, signal.SIGTERM)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    return await lives.exit_code(folder)
            lives.send(folder, signal.SIGKILL)
            return await self.wait(container_id, _KILL_PATIENCE)
        except lives.ExitCodeUnknownError:
            return None

    async def wait(self, container_id: str, deadline: float | None = None) -> int:
        """The exit code, as its monitor noted it."""
        folder = self._folder(container_id)
        try:
            async with asyncio.timeout(deadline):
                return await lives.exit_code(folder)
        except TimeoutError as error:
            raise still_running(container_id, deadline or 0) from error

    async def remove(self, container_id: str) -> None:
        """Kill what runs, let runc drop its cgroups, and remove the folders. The mount goes with its last process."""
        folder = self._folder(container_id)
        labels = self._read(container_id).labels
        await self._destroy(folder)
        await asyncio.to_thread(label.remove_leftovers, labels)

    async def warnings(self) -> tuple[str, ...]:
        """None: there is no daemon that could take its containers along."""
        return ()

    async def prune(self, needed: Sequence[Image], older_than: float) -> int:
        """Remove unpacked layers and trees; nothing while a container is half made. See `LayerStore.prune`."""
        return await asyncio.to_thread(self._layers.prune, needed, older_than, lambda: used_by(self._places.containers))

    async def close(self) -> None:
        """Nothing is held open."""

    async def _begin(self, spec: ContainerSpec, log_bytes: int) -> Started:
        """Make the container's folder and start its monitor. On any failure nothing is left."""
        _refuse_what_is_dockers(spec)
        mounts = await asyncio.to_thread(access.check_sources, spec.mounts, (self._places.layers.parent,))
        folder = await asyncio.to_thread(self._lay_out, spec, mounts)
        try:
            await asyncio.to_thread(
                secrets.fill, records.secrets_of(folder), spec.secrets, spec.user.uid, spec.user.gid
            )
            lower = await asyncio.to_thread(self._layers.overlay, spec.image)
            points = (f"../{folder.parent.name}/{folder.name}/{_MOUNT_POINTS}",) if lower and mounts else ()
            started = await self._start_monitor(folder, spec, _Root((*lower, *points), mounts), log_bytes)
            if started.outcome is Outcome.NO_OVERLAY:
                started = await self._start_monitor(folder, spec, _Root((), mounts), log_bytes)
            if started.outcome is not Outcome.STARTED:
                raise _not_started(spec, folder, started)
        except BaseException:
            await self._discard(folder)
            raise
        return started

    def _undo(self, spec: ContainerSpec) -> Callable[[Started], Coroutine[Any, Any, None]]:
        """What to do with a container that started after its starter was cancelled."""
        return lambda _: self._discard(self._places.containers / spec.name)

    def _lay_out(self, spec: ContainerSpec, mounts: Sequence[Mount]) -> Path:
        """The container's folder with its facts, under its name only once it is whole; its secrets are noted in it.

        From then on `prune` sees that somebody starts, and the layers stay.
        """
        folder = self._places.containers / spec.name
        partial = self._places.containers / f".new-{os.urandom(6).hex()}"
        kept = secrets.reserve(spec.name) if spec.secrets else None
        try:
            with store_errors(self._places.containers):
                (partial / "rootfs").mkdir(mode=0o700, parents=True)
                _make_mount_points(partial / _MOUNT_POINTS, mounts)
                records.write(partial / "container.json", records.facts_of(spec.name, spec.all_labels(kept)))
            with self._layers.starting(), store_errors(self._places.containers):
                if not self._layers.has(spec.image):
                    raise unknown_image(spec, self.name)
                partial.rename(folder)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            secrets.remove(str(kept or ""))
            if isinstance(error, DockyardError) and folder.exists():
                raise name_taken(spec, self.name) from error
            raise
        return folder

    async def _start_monitor(self, folder: Path, spec: ContainerSpec, wanted: _Root, log_bytes: int) -> Started:
        """Write what runc and the monitor need, then start them. The plan comes last: until then all layers stay."""
        with store_errors(folder):
            (folder / "plan").unlink(missing_ok=True)
        root = "rootfs" if wanted.lower else str(await asyncio.to_thread(self._layers.tree, spec.image))
        kept = records.secrets_of(folder)
        bundle = Bundle(root, f"{self._cgroups}-{spec.name}", wanted.mounts, kept)
        records.write(folder / "config.json", runtime_config(spec, bundle, host_features()))
        plan = records.Plan(
            runc=str(self._program),
            state=str(self._places.state),
            id=spec.name,
            layers=str(self._places.layers),
            lower=":".join(wanted.lower),
            log_bytes=log_bytes,
        )
        records.write(folder / "plan", plan.text())
        return await programs.start_monitor(folder, piped=not log_bytes, yielding=spec.yielding)

    async def _discard(self, folder: Path) -> None:
        """A start has failed: nothing of it stays, and its sockets are the starter's."""
        kept = records.secrets_of(folder)
        await self._destroy(folder)
        await asyncio.to_thread(secrets.remove, kept)

    async def _destroy(self, folder: Path) -> None:
        """Kill, let runc forget it, remove the folder; in this order, and again if it was interrupted."""
        lives.send(folder, signal.SIGKILL)
        await lives.ended(folder, _KILL_PATIENCE)
        await programs.run([str(self._program), "--root", str(self._places.state), "delete", "--force", folder.name])
        with store_errors(folder), suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.rmtree, folder)

    def _folder(self, container_id: str) -> Path:
        folder = self._places.containers / container_id
        if not is_name(container_id) or not folder.is_dir():
            raise unknown_container(container_id)
        return folder

    def _pid(self, container_id: str) -> int:
        """The first process of a container that runs or is frozen."""
        pid = self._read(container_id).pid
        if pid is None:
            raise not_running(container_id)
        return pid

    def _read(self, container_id: str) -> Container:
        container = records.read_container(self._folder(container_id))
        if container is None:
            raise unknown_container(container_id)
        return container

    def _read_all(self) -> tuple[Container, ...]:
        if not self._places.containers.is_dir():
            return ()
        with store_errors(self._places.containers):
            names = sorted(path.name for path in self._places.containers.iterdir() if is_name(path.name))
        found = (records.read_container(self._places.containers / name) for name in names)
        return tuple(container for container in found if container is not None)


def _refuse_what_is_dockers(spec: ContainerSpec) -> None:
    """EngineError for what takes networks and device plug-ins, which Docker has."""
    if spec.tcp_port:
        raise docker_only(f"a server on TCP port {spec.tcp_port} (an image that Dockyard did not build)", spec)
    if spec.network:
        raise docker_only(f"network {spec.network!r}", spec)
    if spec.gpus:
        raise docker_only(f"GPUs ({', '.join(spec.gpus)})", spec)


def _make_mount_points(folder: Path, mounts: Sequence[Mount]) -> None:
    """Where the image may lack a target, for nothing can be made in a read-only root."""
    for mount in mounts:
        point = folder / mount.target.lstrip("/")
        point.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if Path(mount.source).is_dir():
            point.mkdir(mode=0o755, exist_ok=True)
        else:
            point.touch(mode=0o644)


def _not_started(spec: ContainerSpec, folder: Path, started: Started) -> StartError:
    words = programs.words_of(folder / "runc.log") or started.reason
    return StartError(
        f"runc could not start {spec.name} ({spec.arguments[0]})",
        detail=words,
        remedy="Check that the image has this program for this machine's architecture; runc's words say more.",
    )
