"""Asks many replicas at once for their /metrics, over their unix sockets or TCP, and bounds what they may cost.

A replica that has no such page, hangs, or answers nonsense is skipped; it never fails the others, nor the caller.
Asking takes a connection to the replica's socket, and a pending connection wakes a sleeping replica: so ask only those
that are meant to run. Called by `sampler`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httptools

from dockyard.yard.exposition import REPLICA

CONCURRENCY = 64
DEADLINE = 0.8
_PIECE = 1 << 16


@dataclass(frozen=True)
class Page:
    """Where a page of metrics is: a unix socket, or host and port. Neither: there is none."""

    socket: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0
    path: str = "/metrics"

    @property
    def exists(self) -> bool:
        """Whether there is anybody to ask."""
        return self.socket is not None or bool(self.port)


_Key = TypeVar("_Key")


async def fetch_all(
    pages: Mapping[_Key, Page], *, within: float, deadline: float = DEADLINE, concurrency: int = CONCURRENCY
) -> dict[_Key, str]:
    """The texts of those pages that came, each within `deadline` seconds and all within `within`."""
    turns = asyncio.Semaphore(concurrency)
    texts: dict[_Key, str] = {}

    async def one(key: _Key, page: Page) -> None:
        async with turns:
            text = await fetch(page, deadline=deadline)
        if text is not None:
            texts[key] = text

    tasks = [asyncio.ensure_future(one(key, page)) for key, page in pages.items() if page.exists]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=within)
    finally:
        await _end(tasks)
    return texts


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def fetch(page: Page, *, deadline: float = DEADLINE, most: int = REPLICA.bytes) -> str | None:
    """A page's text; None when it does not come in time, is longer than `most` bytes, or its status is not 200."""
    with contextlib.suppress(OSError, TimeoutError, httptools.HttpParserError, ValueError):
        async with asyncio.timeout(deadline):
            return await _ask(page, most)
    return None


async def _ask(page: Page, most: int) -> str | None:
    if page.socket is not None:
        reader, writer = await asyncio.open_unix_connection(str(page.socket), limit=_PIECE)
    else:
        reader, writer = await asyncio.open_connection(page.host, page.port, limit=_PIECE)
    try:
        writer.write(
            f"GET {page.path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nConnection: close\r\n\r\n".encode()
        )
        answer = _Answer(most)
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            data = await reader.read(_PIECE)
            if not data:
                break
            parser.feed_data(data)
        whole = answer.complete or answer.until_end
        return answer.body.decode("utf-8", "replace") if whole and parser.get_status_code() == 200 else None
    finally:
        writer.transport.abort()


class _Answer:
    """What httptools calls back while it parses."""

    def __init__(self, most: int) -> None:
        self.body = bytearray()
        self.complete = False
        self.until_end = True
        """Whether the body ends with the connection, for nothing says how long it is."""
        self._most = most

    def on_header(self, name: bytes, _: bytes) -> None:
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self.until_end = False

    def on_body(self, data: bytes) -> None:
        self.body += data
        if len(self.body) > self._most:
            raise ValueError("the page is too long")

    def on_message_complete(self) -> None:
        self.complete = True


def rotated(items: Iterable[_Key], turn: int) -> list[_Key]:
    """The items, beginning with another one each turn: so that those who hang do not always keep the same from us."""
    found = list(items)
    start = turn % len(found) if found else 0
    return found[start:] + found[:start]
