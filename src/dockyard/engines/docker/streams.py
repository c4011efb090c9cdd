"""The standard streams of an attached Docker container: one upgraded connection out, another in. For `engine.attach`.

They are two, because closing the input must not close the output, and the client's stream closes both of its ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
from aiodocker.exceptions import DockerError
from aiodocker.stream import Stream

from dockyard.engines.base import Container, Output

_BROKEN = (aiohttp.ClientError, ConnectionError, DockerError, RuntimeError)


class StreamedContainer:
    """A container that runs, with its output and its input."""

    def __init__(self, container: Container, output: Stream, input_stream: Stream) -> None:
        self.container = container
        self._output = output
        self._input = input_stream

    async def write(self, data: bytes) -> None:
        """Write to its input; nothing happens once it has ended."""
        with suppress(*_BROKEN):
            await self._input.write_in(data)

    async def close_input(self) -> None:
        """End its input."""
        with suppress(*_BROKEN):
            await self._input.close()

    async def output(self) -> AsyncIterator[Output]:
        """What it writes, until it ends."""
        while (message := await self._output.read_out()) is not None:
            yield Output("stderr" if message.stream == 2 else "stdout", message.data)

    async def close(self) -> None:
        """Close both connections."""
        for stream in (self._input, self._output):
            with suppress(*_BROKEN):
                await stream.close()
