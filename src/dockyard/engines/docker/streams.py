"""The standard streams of an attached Docker container: one connection to the engine, taken over. For `engine.attach`.

The client library's own stream cannot end the input and go on reading, so this speaks the protocol itself: an HTTP
request that the engine answers with `101 Switching Protocols`; from then on what we send is the input, and what comes
are frames of 8 bytes (stream, 0, 0, 0, length) and data. Source: Docker Engine API, "Attach to a container".
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress

from dockyard.engines.base import Container, Output
from dockyard.errors import EngineError

_FRAME = struct.Struct(">BxxxL")
_HEAD_LIMIT = 1 << 16
_STDERR = 2


class AttachedContainer:
    """A container whose streams are one connection. Get it by `connect`, before the container is started."""

    def __init__(self, container: Container, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.container = container
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, address: str, container: Container) -> AttachedContainer:
        """Take over a connection to the engine at `address`; EngineError when it refuses. No deadline of its own."""
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"), limit=_HEAD_LIMIT)
        attached = cls(container, reader, writer)
        wanted = "stream=1&stdin=1&stdout=1&stderr=1"
        writer.write(
            f"POST /containers/{container.id}/attach?{wanted} HTTP/1.1\r\nHost: docker\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
        )
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except BaseException:
            await attached.close()
            raise
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if status.split(" ")[1:2] not in (["101"], ["200"]):
            await attached.close()
            raise EngineError(f"Docker at {address} refused to attach: {status[:80]!r}", remedy="Look at its log.")
        return attached

    async def write(self, data: bytes) -> None:
        """Write to its input; nothing happens once it has ended."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def close_input(self) -> None:
        """End its input; the output goes on."""
        with suppress(OSError):
            self._writer.write_eof()

    async def output(self) -> AsyncIterator[Output]:
        """What it writes, until it ends."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                stream, size = _FRAME.unpack(await self._reader.readexactly(_FRAME.size))
                data = await self._reader.readexactly(size)
                yield Output("stderr" if stream == _STDERR else "stdout", data)

    async def close(self) -> None:
        """Drop the connection with whatever input was not taken."""
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()
