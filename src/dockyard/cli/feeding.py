"""The input of a batch as bytes for a container's standard input: a file as it is, a folder as a tar. For `cli.batch`.

Nothing is held but one piece, and the container's reading sets the pace.
"""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from dockyard.errors import DockyardError

_PIECE = 1 << 16
_END = b"\0" * 1024


async def bytes_of_pipe(descriptor: int) -> AsyncIterator[bytes]:
    """What comes through a pipe, until it ends."""
    loop = asyncio.get_running_loop()
    while True:
        ready = loop.create_future()
        try:
            loop.add_reader(descriptor, _settle, ready)
        except PermissionError:  # a file in the place of a pipe is always ready
            ready.set_result(None)
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)
        data = os.read(descriptor, _PIECE)
        if not data:
            return
        yield data


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def bytes_of_file(path: Path) -> AsyncIterator[bytes]:
    """A file's bytes."""
    with _opened(path) as file:
        while data := await asyncio.to_thread(file.read, _PIECE):
            yield data


async def tar_of(folder: Path, names: Sequence[str], skip: int) -> AsyncIterator[bytes]:
    """A tar of these files; the first `skip` of them are empty, because nobody will look at them."""
    for name in names[:skip]:
        yield _header(name, 0)
    for name in names[skip:]:
        pieces = _member(folder, name)
        while (piece := await asyncio.to_thread(next, pieces, b"")) != b"":
            yield piece
    yield _END


def _member(folder: Path, name: str) -> Iterator[bytes]:
    with _opened(folder / name) as file:
        size = left = os.fstat(file.fileno()).st_size
        yield _header(name, size)
        while left:
            data = file.read(min(left, _PIECE))
            if not data:
                raise DockyardError(f"{folder / name} became shorter while it was read", remedy="Run it again.")
            left -= len(data)
            yield data
    if size % tarfile.BLOCKSIZE:
        yield b"\0" * (tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DockyardError(
            f"{path} cannot be read: {error.strerror}", remedy="Make it readable, or take it out of the input."
        ) from error
