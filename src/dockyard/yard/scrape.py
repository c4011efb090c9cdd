"""Asks many replicas at once for their /metrics, over their unix sockets or TCP, and bounds what they may cost.

A replica that has no such page, hangs, or answers nonsense is skipped; it never fails the others, nor the caller. Those
without a page are told apart, for that is no fault.
Asking takes a connection to the replica's socket, and a pending connection wakes a sleeping replica: so ask only those
that are meant to run. Called by `sampler`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Generic, TypeVar

import httptools

from dockyard.yard.exposition import REPLICA

CONCURRENCY = 64
DEADLINE = 0.8
_PIECE = 1 << 16
_NOT_NOW = frozenset({408, 429, 500, 502, 503, 504})
"""What a server answers that may well have the page."""


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


class Missing(Enum):
    """Why there is no text of a page."""

    NO_PAGE = "no page"
    """The server says that it has none, or nobody listens there."""
    NO_ANSWER = "no answer"
    """Nothing whole came in time, or too much, or the server could not just now."""


_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Fetched(Generic[_Key]):
    """The texts of the pages that came; `pageless`: who has none."""

    texts: Mapping[_Key, str] = field(hash=False)
    pageless: frozenset[_Key] = frozenset()


async def fetch_all(
    pages: Mapping[_Key, Page], *, within: float, deadline: float = DEADLINE, concurrency: int = CONCURRENCY
) -> Fetched[_Key]:
    """What came of those pages, each within `deadline` seconds and all within `within`."""
    turns = asyncio.Semaphore(concurrency)
    texts: dict[_Key, str] = {}
    pageless: set[_Key] = set()

    async def one(key: _Key, page: Page) -> None:
        async with turns:
            found = await fetch(page, deadline=deadline)
        if isinstance(found, str):
            texts[key] = found
        elif found is Missing.NO_PAGE:
            pageless.add(key)

    tasks = [asyncio.ensure_future(one(key, page)) for key, page in pages.items() if page.exists]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=within)
    finally:
        await _end(tasks)
    return Fetched(texts, frozenset(pageless))


async def _end(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def fetch(page: Page, *, deadline: float = DEADLINE, most: int = REPLICA.bytes) -> str | Missing:
    """A page's text, if it comes in time, whole, with status 200, and is at most `most` bytes long."""
    try:
        async with asyncio.timeout(deadline):
            return await _ask(page, most)
    except ConnectionRefusedError:
        return Missing.NO_PAGE
    except (OSError, TimeoutError, httptools.HttpParserError, ValueError):
        return Missing.NO_ANSWER


async def _ask(page: Page, most: int) -> str | Missing:
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
        if not answer.whole:
            return Missing.NO_ANSWER
        return _text(answer, parser.get_status_code())
    finally:
        writer.transport.abort()


def _text(answer: _Answer, status: int) -> str | Missing:
    if status == 200:
        return answer.body.decode("utf-8", "replace")
    return Missing.NO_ANSWER if status in _NOT_NOW else Missing.NO_PAGE


class _Answer:
    """What httptools calls back while it parses."""

    def __init__(self, most: int) -> None:
        self.body = bytearray()
        self.complete = False
        self._head = False
        self._until_end = True
        """Whether the body ends with the connection, for nothing says how long it is."""
        self._most = most

    @property
    def whole(self) -> bool:
        """Whether all of it was there when the connection ended."""
        return self.complete or (self._head and self._until_end)

    def on_header(self, name: bytes, _: bytes) -> None:
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._until_end = False

    def on_headers_complete(self) -> None:
        self._head = True

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
