"""The standard streams of an attached runc container: pipes that the monitor passed on to it. For `runc.engine`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Literal

from dockyard.engines.base import Container, Output

_PIECE = 1 << 16
_QUEUE = 8
_CLOSING = 5.0


class PipedContainer:
    """A container whose streams are those of `process`, the monitor's first and short-lived one."""

    def __init__(self, container: Container, process: asyncio.subprocess.Process) -> None:
        self.container = container
        self._process = process

    async def write(self, data: bytes) -> None:
        """Write to its input; nothing happens once it has ended."""
        assert self._process.stdin is not None
        with suppress(ConnectionError):
            self._process.stdin.write(data)
            await self._process.stdin.drain()

    async def close_input(self) -> None:
        """End its input."""
        assert self._process.stdin is not None
        with suppress(ConnectionError):
            self._process.stdin.close()
            await self._process.stdin.wait_closed()

    async def output(self) -> AsyncIterator[Output]:
        """What it writes, until both streams end. The queue between is bounded: who does not read, stops it."""
        queue: asyncio.Queue[Output | None] = asyncio.Queue(_QUEUE)
        pumps = [
            asyncio.ensure_future(_pump("stdout", self._process.stdout, queue)),
            asyncio.ensure_future(_pump("stderr", self._process.stderr, queue)),
        ]
        try:
            open_streams = len(pumps)
            while open_streams:
                found = await queue.get()
                if found is None:
                    open_streams -= 1
                else:
                    yield found
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def close(self) -> None:
        """Let go of the pipes. The container has been removed, so both ends come at once."""
        await self.close_input()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                async for _ in self.output():
                    pass
                await self._process.wait()


async def _pump(
    name: Literal["stdout", "stderr"], reader: asyncio.StreamReader | None, queue: asyncio.Queue[Output | None]
) -> None:
    assert reader is not None
    while data := await reader.read(_PIECE):
        await queue.put(Output(name, data))
    await queue.put(None)
