"""The connection to a Docker engine: deadlines for every request, foreign errors translated at this one door.

Used by the other modules of this package. A hanging engine becomes an EngineError that says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiodocker
import aiohttp
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError

from dockyard.engines.base import unknown_container
from dockyard.errors import EngineError

REQUEST_DEADLINE = 30.0
NOT_FOUND, CONFLICT = 404, 409
_UNREACHABLE = 900  # the client's own, where there is no answer


class Session:
    """An open client of the engine at `address` (`unix:///path`); `deadline` (s) bounds each request."""

    def __init__(self, address: str, deadline: float = REQUEST_DEADLINE) -> None:
        self.address = address
        self.deadline = deadline
        # Every `wait` holds a connection for as long as a container lives, so they may be as many as containers.
        self._connector = aiohttp.UnixConnector(address.removeprefix("unix://"), limit=0)
        self.client = aiodocker.Docker(url="unix://localhost", connector=self._connector)
        self._version: dict[str, Any] = {}

    def container(self, container_id: str) -> DockerContainer:
        """A handle on a container, known or not."""
        return self.client.containers.container(container_id)

    async def version(self) -> dict[str, Any]:
        """What the engine says of itself; asked once."""
        if not self._version:
            async with self.asking("for its version"):
                self._version = await self.client.version()
        return self._version

    @asynccontextmanager
    async def asking(self, what: str, container_id: str = "", deadline: float | None = None) -> AsyncIterator[None]:
        """Make requests in the body: they have a deadline together, and raise our errors. See `translated`."""
        limit = self.deadline if deadline is None else deadline
        try:
            async with asyncio.timeout(limit), self.translated(what, container_id):
                yield
        except TimeoutError as error:
            raise EngineError(
                f"Docker at {self.address} did not answer within {limit:g} s when asked {what}",
                remedy="Look at its log and at the machine's load; restart it if it hangs.",
            ) from error

    @asynccontextmanager
    async def translated(self, what: str, container_id: str = "") -> AsyncIterator[None]:
        """Translate errors of the body only. 'Not found' is about `container_id` when that is given."""
        try:
            yield
        except DockerError as error:
            if error.status == NOT_FOUND and container_id:
                raise unknown_container(container_id) from error
            if error.status == _UNREACHABLE:
                raise EngineError(
                    f"Docker at {self.address} does not answer when asked {what}",
                    remedy="Check that it runs (`docker version`, `systemctl status docker`); start it if it does not.",
                ) from error
            raise EngineError(
                f"Docker at {self.address} refused {what}", detail=error.message.strip(), remedy="Its words say why."
            ) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise EngineError(
                f"the connection to Docker at {self.address} broke {what}: {error}",
                remedy="Check that it still runs (`docker version`), then try again.",
            ) from error

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()
        await self._connector.close()
