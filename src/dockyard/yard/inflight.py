"""How many requests each replica has in flight, for people who look: `telling` shows it.

The gateway counts them. Whoever asks within a moment shares one look at it, for many may follow a rollout at once; and
nobody waits long for a gateway that does not answer. The planner asks for itself, and must know it when there is none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from dockyard.errors import GatewayError
from dockyard.gateway.base import Gateway

FRESH_S = 1.0
"""A look serves everybody who asks within so long: beside a rollout it must cost next to nothing."""
PATIENCE_S = 0.5


class InFlight:
    """What the gateway counted a moment ago."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._look: asyncio.Task[Mapping[str, int]] | None = None
        self._begun = 0.0

    async def now(self) -> Mapping[str, int]:
        """Requests in flight by replica; nothing when the gateway does not say so in time."""
        if self._look is None or (self._look.done() and time.monotonic() - self._begun >= FRESH_S):
            self._begun = time.monotonic()
            self._look = asyncio.create_task(self._ask())
        look = self._look
        await asyncio.wait({look}, timeout=PATIENCE_S)
        return look.result() if look.done() else {}

    async def _ask(self) -> Mapping[str, int]:
        try:
            counts = await self._gateway.counts()
        except GatewayError:
            return {}
        return {name: each.in_flight for name, each in counts.items()}
