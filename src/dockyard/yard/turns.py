"""Starts that can wait take turns: as many at once as half of this host's cores, so that the other half answers.

A replica that starts keeps a core busy while it imports and loads; several of them beside each other keep callers of
those that serve waiting, however little weight they have. A turn ends when the start does, or after a while: what takes
that long waits for a disk or a device, and no longer for a core. Called by `fleet`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """The turns of one host."""

    def __init__(self, at_once: int | None = None) -> None:
        self._free = asyncio.Semaphore(at_once or max(1, len(os.sched_getaffinity(0)) // 2))

    @asynccontextmanager
    async def turn(self, longest: float) -> AsyncIterator[None]:
        """Wait for a turn, first come, first served, and keep it for the block, but for at most `longest` seconds."""
        await self._free.acquire()
        kept = True

        def end() -> None:
            nonlocal kept
            if kept:
                kept = False
                self._free.release()

        ending = asyncio.get_running_loop().call_later(longest, end)
        try:
            yield
        finally:
            ending.cancel()
            end()
