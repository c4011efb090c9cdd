"""Starts that can wait take turns: as many at once as half of this host's cores, so that the other half answers.

A replica that starts keeps a core busy while it imports and loads; several of them beside each other keep callers of
those that serve waiting, however little weight they have. A turn ends when the start does, or after a while: what takes
that long waits for a disk or a device, and no longer for a core. What can wait longer, the end of a replica that nobody
asks any more, comes after all that start, one after the other. Called by `fleet`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Turns:
    """The turns of one host."""

    def __init__(self, at_once: int | None = None) -> None:
        self._free = asyncio.Semaphore(at_once or max(1, len(os.sched_getaffinity(0)) // 2))
        self._wanted = 0  # turns that are taken, or waited for
        self._calm = asyncio.Event()
        self._calm.set()
        self._last = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, longest: float, hurry: asyncio.Event) -> AsyncIterator[None]:
        """Wait for a turn, first come, first served, and keep it for the block, but for at most `longest` seconds.

        Once `hurry` is set there is no waiting, and no turn.
        """
        self._want(1)
        try:
            kept = await self._taken(hurry)
        except BaseException:
            self._want(-1)
            raise
        if not kept:
            self._want(-1)

        def end() -> None:
            nonlocal kept
            if kept:
                kept = False
                self._free.release()
                self._want(-1)

        ending = asyncio.get_running_loop().call_later(longest, end)
        try:
            yield
        finally:
            ending.cancel()
            end()

    @asynccontextmanager
    async def afterwards(self, patience: float) -> AsyncIterator[None]:
        """Wait until nothing starts, and for the blocks before this one; for at most `patience` seconds in all."""
        held = False
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._last.acquire()
                held = True
                await self._calm.wait()
        try:
            yield
        finally:
            if held:
                self._last.release()

    async def _taken(self, hurry: asyncio.Event) -> bool:
        """Whether there was a turn before somebody was in a hurry."""
        taking, hurrying = asyncio.ensure_future(self._free.acquire()), asyncio.ensure_future(hurry.wait())
        try:
            await asyncio.wait({taking, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            return taking.done()
        except asyncio.CancelledError:
            if taking.done():
                self._free.release()
            raise
        finally:
            taking.cancel()
            hurrying.cancel()

    def _want(self, more: int) -> None:
        self._wanted += more
        if self._wanted:
            self._calm.clear()
        else:
            self._calm.set()
