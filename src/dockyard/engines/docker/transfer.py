"""Moving an image into a Docker engine: only the layers that it lacks.

Docker's own load looks for each layer by its chain before it opens the layer's file, so an archive may leave out the
layers, from the lowest up, that some image of the engine already has. Engines with the containerd image store and
Podman want whole archives and get them. Called by `engine.load`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from aiodocker.exceptions import DockerError

from dockyard.engines.docker.config import loads_thin_archives, present_run
from dockyard.engines.docker.session import NOT_FOUND, Session
from dockyard.engines.removal import finish
from dockyard.errors import DockyardError, EngineError
from dockyard.oci.archive import archive_chunks
from dockyard.oci.image import Image
from dockyard.oci.layout import Layout

LOAD_DEADLINE = 3600.0
_ZSTD = 'Layers of it are packed with zstd, which Docker reads from version 23 on: build with compression = "gzip".'
_INSPECTED = 500
_AT_ONCE = 8


@dataclass(frozen=True)
class Sent:
    """What went over: layers, and bytes of the archive."""

    layers: int
    bytes: int


async def known(session: Session, image: Image) -> str | None:
    """By what the engine knows an image: its ID, or with the containerd image store its digest; None if it does not."""
    for reference in (image.image_id, image.digest):
        async with session.asking("about an image"):
            with suppress(_NotFoundError):
                await _inspect(session, reference)
                return reference
    return None


async def name(session: Session, reference: str, tag: str) -> bool:
    """Give an image this tag, or note that it still has it; False when it is gone."""
    repository, _, version = tag.rpartition(":")
    async with session.asking(f"to name an image {tag}"):
        try:
            return await session.client.images.tag(reference, repository, tag=version)
        except DockerError as error:
            if error.status == NOT_FOUND:
                return False
            raise


async def send(session: Session, image: Image, layout: Layout, tag: str) -> Sent:
    """Load the image under this tag, leaving out what the engine has; whole when it does not take that."""
    run = await _present(session, image)
    if run:
        with suppress(EngineError):
            return await _upload(session, image, layout, tag, run)
    return await _upload(session, image, layout, tag, 0)


class _NotFoundError(Exception):
    """The engine does not have that image."""


async def _inspect(session: Session, reference: str) -> dict[str, Any]:
    try:
        return await session.client.images.inspect(reference)
    except DockerError as error:
        if error.status == NOT_FOUND:
            raise _NotFoundError from error
        raise


async def _present(session: Session, image: Image) -> int:
    """How many of the lowest layers the engine has, if it can be told to use them."""
    async with session.asking("which layers it has"):
        if not loads_thin_archives(await session.client.system.info(), await session.version()):
            return 0
        found = await session.client.images.list(all=True)
        newest = sorted(found, key=lambda entry: int(entry.get("Created", 0)), reverse=True)[:_INSPECTED]
        gate = asyncio.Semaphore(_AT_ONCE)
        chains = await asyncio.gather(*(_layers(session, str(entry["Id"]), gate) for entry in newest))
    return present_run(image.config.diff_ids, chains)


async def _layers(session: Session, reference: str, gate: asyncio.Semaphore) -> list[str]:
    async with gate:
        with suppress(_NotFoundError):
            answer = await _inspect(session, reference)
            return list(answer.get("RootFS", {}).get("Layers") or [])
    return []


async def _upload(session: Session, image: Image, layout: Layout, tag: str, run: int) -> Sent:
    omitted = frozenset(image.config.diff_ids[:run])
    upload = _Upload(archive_chunks(image, layout, tag, omit_layers=omitted))
    try:
        async with session.asking("to load an image", deadline=LOAD_DEADLINE):
            await session.client.images.import_image(upload.stream())
        if await known(session, image) is None:
            raise EngineError(
                f"Docker at {session.address} took image {tag}, and then does not have it",
                remedy="Look at its log; its disk may be full.",
            )
    except EngineError as error:
        if upload.failure is not None:
            raise upload.failure from None
        if any(layer.media_type.endswith("zstd") for layer in image.layers):
            raise EngineError(error.what, detail=error.detail, remedy=_ZSTD) from error
        raise
    return Sent(len(image.layers) - run, upload.moved)


@dataclass
class _Upload:
    """The archive on its way: read in a thread, at most one piece of 1 MiB in memory."""

    chunks: Iterator[bytes]
    moved: int = 0
    failure: DockyardError | None = field(default=None)

    async def stream(self) -> AsyncIterator[bytes]:
        """The pieces; a damaged blob ends the request, and `failure` says why."""
        try:
            while (piece := await finish(asyncio.to_thread(next, self.chunks, None))) is not None:
                self.moved += len(piece)
                if piece:
                    yield piece
        except DockyardError as error:
            self.failure = error
            raise
        finally:
            cast("Generator[bytes]", self.chunks).close()
