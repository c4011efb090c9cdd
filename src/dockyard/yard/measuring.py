"""The load of everything, and metrics for Prometheus. `service` offers both to the API."""

from __future__ import annotations

from dockyard.spec.status import Top
from dockyard.yard.parts import Parts


class Measuring:
    """The operations about load."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def top(self) -> Top:
        """The load of everything now."""
        return Top(at=self._parts.store.now(), window_s=2.0)

    async def metrics(self) -> bytes:
        """Prometheus text format 0.0.4."""
        return (await self._parts.gateway.metrics()).encode()
