"""The `docker` engine, method by method. `detect` makes it; `launch`, `once` and the command line use it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from dockyard.engines import access, secrets
from dockyard.engines import labels as label
from dockyard.engines.base import (
    Attached,
    Container,
    ContainerSpec,
    Loaded,
    State,
    name_taken,
    not_running,
    still_running,
    unknown_image,
)
from dockyard.engines.docker import networks, pruning, transfer
from dockyard.engines.docker.config import ENGINE, Given, container_of, create_request, is_podman, remedy_of_start
from dockyard.engines.docker.session import CONFLICT, NOT_FOUND, REQUEST_DEADLINE, Session
from dockyard.engines.docker.streams import AttachedContainer
from dockyard.engines.lines import Lines
from dockyard.engines.own import send_signal
from dockyard.engines.removal import finish, remove_surely
from dockyard.engines.weight import yielding_from_its_first_moment
from dockyard.errors import ContainerNotFoundError, EngineError, StartError
from dockyard.oci.image import Image
from dockyard.oci.layout import Layout
from dockyard.oci.reference import tagged

# Podman answers 500 where Docker says 409; these are its words.
_NAME_TAKEN = "that name is already in use"
_NOT_RUNNING = "can only kill running containers"
_NO_LIVE_RESTORE = (
    "Docker stops all containers when its daemon restarts, at an upgrade for one: "
    'put {"live-restore": true} into /etc/docker/daemon.json and reload it (`systemctl reload docker`).'
)
_AT_ONCE = 16


class DockerEngine:
    """Containers of the engine at `address` (`unix:///path`). Make it where an event loop runs, and close it."""

    name = ENGINE

    def __init__(self, address: str, deadline: float = REQUEST_DEADLINE) -> None:
        self._session = Session(address, deadline)

    async def load(self, image: Image, layout: Layout, name: str) -> Loaded:
        """Stream an archive of what the engine lacks; an image that it has is only tagged.

        That is done even if it has the tag: Docker notes when, which is how `prune` knows an image that is about to be
        started.
        """
        begun = time.monotonic()
        tag = tagged(name)
        sent = transfer.Sent(0, 0)
        known = await transfer.known(self._session, image)
        if known is None or not await transfer.name(self._session, known, tag):
            sent = await transfer.send(self._session, image, layout, tag)
            await transfer.name(self._session, tag, tag)
        return Loaded(sent.layers, sent.bytes, time.monotonic() - begun)

    async def check(self, spec: ContainerSpec) -> None:
        """A network that is not there."""
        await networks.check(self._session, spec)

    async def start(self, spec: ContainerSpec) -> Container:
        """Create and start a container."""
        return await finish(self._start(spec), undo=lambda container: self.remove(container.id))

    @asynccontextmanager
    async def attach(self, spec: ContainerSpec) -> AsyncIterator[Attached]:
        """Start a container whose streams are a connection to the engine."""
        attached = await finish(self._attach(spec), undo=self._discard)
        try:
            yield attached
        finally:
            await finish(self._discard(attached))

    async def list(self) -> tuple[Container, ...]:
        """The containers with our label."""
        async with self._session.asking("to list containers"):
            filters = json.dumps({"label": [f"{label.MANAGED}=1"]})
            found = await self._session.client.containers.list(all=True, filters=filters)
        gate = asyncio.Semaphore(_AT_ONCE)
        containers = await asyncio.gather(*(self._find(each.id, gate) for each in found))
        return tuple(sorted(filter(None, containers), key=lambda container: container.name))

    async def inspect(self, container_id: str) -> Container:
        """One container."""
        async with self._session.asking("about a container", container_id):
            return container_of(await self._session.container(container_id).show())

    async def logs(self, container_id: str, *, follow: bool = False, tail: int | None = None) -> AsyncIterator[str]:
        """Lines as Docker keeps them: at most 20 MiB."""
        await self.inspect(container_id)
        lines = Lines()
        async for piece in self._log(container_id, follow=follow, tail="all" if tail is None else str(tail)):
            for line in lines.feed(piece.encode()):
                yield line
        for line in lines.end():
            yield line

    async def freeze(self, container_id: str) -> None:
        """Pause."""
        if (await self._running(container_id)).state is not State.FROZEN:
            async with self._session.asking("to freeze a container", container_id):
                await self._session.container(container_id).pause()

    async def thaw(self, container_id: str) -> None:
        """Unpause."""
        if (await self._running(container_id)).state is State.FROZEN:
            async with self._session.asking("to thaw a container", container_id):
                await self._session.container(container_id).unpause()

    async def stop(self, container_id: str, grace: float = 30.0) -> int:
        """SIGTERM, which a frozen one finds when it wakes; then SIGKILL.

        Docker would start two programs to send it, beside replicas that answer, so we send it where we can.
        """
        container = await self.inspect(container_id)
        if container.state is not State.RUNNING or not send_signal(container, signal.SIGTERM):
            await self._signal(container_id, "SIGTERM")
        if container.state is State.FROZEN:
            with suppress(EngineError):  # Docker wakes one itself for its stop signal, so it may run, or have ended
                await self.thaw(container_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                return await self._exit_code(container_id)
        await self._signal(container_id, "SIGKILL")
        return await self.wait(container_id, self._session.deadline)

    async def wait(self, container_id: str, deadline: float | None = None) -> int:
        """The exit code."""
        try:
            async with asyncio.timeout(deadline):
                return await self._exit_code(container_id)
        except TimeoutError as error:
            raise still_running(container_id, deadline or 0) from error

    async def remove(self, container_id: str) -> None:
        """Delete by force, then remove what it had on the host."""
        container = await self.inspect(container_id)
        async with self._session.asking("to remove a container", container_id):
            await self._session.container(container_id).delete(force=True, v=True)
        await asyncio.to_thread(label.remove_leftovers, container.labels)

    async def prune(self, needed: Sequence[Image], older_than: float) -> int:
        """Remove images of ours that have lost their name."""
        return await pruning.prune(self._session, needed, older_than)

    async def warnings(self) -> tuple[str, ...]:
        """Whether containers survive the daemon. Podman has none."""
        if is_podman(await self._session.version()):
            return ()
        async with self._session.asking("for its settings"):
            info = await self._session.client.system.info()
        return () if info.get("LiveRestoreEnabled") else (_NO_LIVE_RESTORE,)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _start(self, spec: ContainerSpec) -> Container:
        created = await self._create(spec, attached=False)
        try:
            with yielding_from_its_first_moment(created.id) if spec.yielding else nullcontext():
                await self._run(created, spec)
            return await self.inspect(created.id)
        except BaseException:
            await remove_surely(self, created.id)
            raise

    async def _attach(self, spec: ContainerSpec) -> AttachedContainer:
        created = await self._create(spec, attached=True)
        try:
            container = await self.inspect(created.id)
            async with self._session.asking("to attach to a container", created.id):
                attached = await AttachedContainer.connect(self._session.address, container)
        except BaseException:
            await remove_surely(self, created.id)
            raise
        try:
            await self._run(created, spec)
        except BaseException:
            await self._discard(attached)
            raise
        return attached

    async def _discard(self, attached: AttachedContainer) -> None:
        await remove_surely(self, attached.container.id)
        await attached.close()

    async def _find(self, container_id: str, gate: asyncio.Semaphore) -> Container | None:
        """One of those listed, unless it is gone meanwhile."""
        async with gate:
            with suppress(ContainerNotFoundError):
                return await self.inspect(container_id)
        return None

    async def _running(self, container_id: str) -> Container:
        container = await self.inspect(container_id)
        if container.state not in {State.RUNNING, State.FROZEN}:
            raise not_running(container_id)
        return container

    async def _create(self, spec: ContainerSpec, *, attached: bool) -> DockerContainer:
        """Create a container with all that it is given; its secrets are written once its labels name their folder."""
        socket = Path(self._session.address.removeprefix("unix://"))
        mounts = await asyncio.to_thread(access.check_sources, spec.mounts, (socket,))
        await networks.ensure(self._session, spec)
        folder = await asyncio.to_thread(secrets.reserve, spec.name) if spec.secrets else None
        created: DockerContainer | None = None
        try:
            created = await self._create_of(spec, Given(mounts, folder), attached=attached)
            await networks.connect(self._session, spec, created.id)
            await asyncio.to_thread(secrets.fill, str(folder), spec.secrets, spec.user.uid, spec.user.gid)
        except BaseException:
            if created is not None:
                await remove_surely(self, created.id)
            else:
                secrets.remove(str(folder or ""))
            raise
        return created

    async def _create_of(self, spec: ContainerSpec, given: Given, *, attached: bool) -> DockerContainer:
        """Create a container of the image by its ID or, in the containerd image store, its digest."""
        podman = is_podman(await self._session.version())
        for reference in (spec.image.image_id, spec.image.digest):
            request = create_request(spec, reference, given, attached=attached, podman=podman)
            async with self._session.asking(f"to create container {spec.name}"):
                try:
                    return await self._session.client.containers.create(request, name=spec.name)
                except DockerError as error:
                    if error.status == CONFLICT or _NAME_TAKEN in error.message:
                        raise name_taken(spec, self.name) from error
                    if error.status != NOT_FOUND:
                        raise
        raise unknown_image(spec, self.name)

    async def _run(self, created: DockerContainer, spec: ContainerSpec) -> None:
        async with self._session.asking(f"to start container {spec.name}", created.id):
            try:
                await created.start()
            except DockerError as error:
                raise StartError(
                    f"docker could not start {spec.name} ({spec.arguments[0]})",
                    detail=error.message.strip(),
                    remedy=remedy_of_start(error.message, gpus=bool(spec.gpus)),
                ) from error

    async def _exit_code(self, container_id: str) -> int:
        async with self._session.translated("to wait for a container", container_id):
            answer = await self._session.container(container_id).wait()
        return int(answer["StatusCode"])

    async def _signal(self, container_id: str, name: str) -> None:
        """Send a signal; nothing happens when the container does not run."""
        async with self._session.asking(f"to send {name}", container_id):
            try:
                await self._session.container(container_id).kill(signal=name)
            except DockerError as error:
                if error.status != CONFLICT and _NOT_RUNNING not in error.message:
                    raise

    async def _log(self, container_id: str, *, follow: bool, tail: str) -> AsyncIterator[str]:
        container = self._session.container(container_id)
        wanted: dict[str, Any] = {"stdout": True, "stderr": True, "tail": tail}
        if follow:
            async with self._session.translated("to follow a log", container_id):
                async for piece in container.log(follow=True, **wanted):
                    yield piece
            return
        async with self._session.asking("for a log", container_id):
            pieces = await container.log(follow=False, **wanted)
        for piece in pieces:
            yield piece
