"""Answers that go on: JSON lines with a heartbeat, and files as they are made; and bodies of requests that go on.

Each line is an object with one key: `item`, `beat` (nothing happened; I am still here), `error` (a Failure), or `end`.
An answer without `end` was cut off, and its reader knows. A reader that is gone, or takes nothing for `write_s`
seconds, is noticed at the next beat and dropped. Called by the handlers of `api_routes`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from dockyard.errors import DockyardError, YardBusyError, YardGoneError
from dockyard.spec.failures import failure_of
from dockyard.spec.requests import MEDIA_TYPE_LINES
from dockyard.yard.api_access import HEADERS

_log = logging.getLogger("dockyard.yard.api")
_EARLY = 0.25
"""An answer of lines begins after so many seconds even if there is nothing to tell yet; an error before that gets a
status."""


@dataclass(frozen=True)
class Limits:
    """What one caller may take: bytes of a request, seconds to send it, to answer it, and to take an answer; and how
    many may listen to answers that go on, and be connected, at a time."""

    body_bytes: int = 1 << 20
    body_s: float = 15.0
    read_s: float = 30.0
    change_s: float = 120.0
    beat_s: float = 5.0
    write_s: float = 30.0
    idle_s: float = 30.0
    streams: int = 64
    connections: int = 512


class Streams:
    """Writes answers that go on, and knows how many do."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._running: set[asyncio.Task[Any]] = set()

    async def lines(self, request: web.Request, items: AsyncIterator[Any]) -> web.StreamResponse:
        """The items as JSON lines, until they end or the reader is gone."""
        with self._counted():
            writer = _Writer(request, items, self._limits, MEDIA_TYPE_LINES)
            return await writer.send(writer.lines())

    async def file(self, request: web.Request, parts: AsyncIterator[bytes]) -> web.StreamResponse:
        """The parts as one file; a failure in the middle breaks the connection, so nobody takes it for whole.

        The answer begins with the first part, so that a failure to make the file has a status, however late it is.
        """
        with self._counted():
            writer = _Writer(request, parts, self._limits, "application/octet-stream")
            return await writer.send(writer.bytes(), early=None)

    async def body(self, request: web.Request) -> AsyncGenerator[bytes, None]:
        """A request's body as it comes; YardGoneError when its sender is gone, or sends nothing for `write_s`."""
        with self._counted():
            while True:
                try:
                    async with asyncio.timeout(self._limits.write_s):
                        part = await request.content.readany()
                except (TimeoutError, ConnectionError, aiohttp.ClientError, web.RequestPayloadError) as error:
                    raise YardGoneError(
                        f"the bytes stopped coming: {error or type(error).__name__}", remedy="Send it again."
                    ) from error
                if not part:
                    return
                yield part

    async def close(self) -> None:
        """Cut off those that still go on: the yard is stopping."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=1.0)

    def _counted(self) -> _Counted:
        if len(self._running) >= self._limits.streams:
            raise YardBusyError(
                f"{self._limits.streams} callers follow events, logs or rollouts, or send images, already",
                remedy="Stop one of them, or ask again later.",
            )
        return _Counted(self._running)


class _Counted:
    def __init__(self, running: set[asyncio.Task[Any]]) -> None:
        self._running = running

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._task is not None:
            self._running.add(self._task)

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._running.discard(self._task)


class _Writer:
    """One answer that goes on."""

    def __init__(self, request: web.Request, items: AsyncIterator[Any], limits: Limits, kind: str) -> None:
        self._request = request
        self._items = items
        self._limits = limits
        self._response = web.StreamResponse(headers=HEADERS | {"Content-Type": kind})
        self._ask()

    async def send(self, parts: AsyncIterator[bytes], early: float | None = _EARLY) -> web.StreamResponse:
        """The parts, one after the other. Whatever goes wrong after the head was sent breaks the connection.

        The head is sent with the first part, or after `early` seconds.
        """
        try:
            await self._begin(early)
            async for part in parts:
                async with asyncio.timeout(self._limits.write_s):
                    await self._response.write(part)
            await self._response.write_eof()
        except Exception as error:
            if not self._response.prepared:
                raise
            if not isinstance(error, ConnectionError | TimeoutError):
                _log.exception("the answer to %s broke off", self._request.path)
            self._abort()
        finally:
            await self._close()
        return self._response

    async def lines(self) -> AsyncIterator[bytes]:
        """Each item as a line; beats between them, and a last line that says how it ended."""
        while True:
            done, _ = await asyncio.wait({self._next}, timeout=self._limits.beat_s)
            if not done:
                yield _line({"beat": time.time()})
                continue
            try:
                item = self._next.result()
            except DockyardError as error:
                yield _line({"error": failure_of(error)[1]})
                return
            if item is _END:
                yield _line({"end": {}})
                return
            yield _line({"item": item})
            self._ask()

    async def bytes(self) -> AsyncIterator[bytes]:
        """Each item as it is."""
        while (part := await self._next) is not _END:
            yield part
            self._ask()

    def _ask(self) -> None:
        self._next = asyncio.ensure_future(_next(self._items))

    async def _begin(self, early: float | None) -> None:
        """Wait for the first item, so that an error before it can have a status of its own."""
        await asyncio.wait({self._next}, timeout=early)
        if self._next.done():
            self._next.result()
        await self._response.prepare(self._request)

    def _abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _close(self) -> None:
        self._next.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._next
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()


_END = object()


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items, _END)


def _line(told: dict[str, Any]) -> bytes:
    return msgspec.json.encode(told) + b"\n"
