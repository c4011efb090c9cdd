"""One question with a deadline, to servers that answer, and to those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dockyard.engines.base import TcpAddress
from dockyard.engines.probe import probe


@asynccontextmanager
async def server(path: Path, answer: bytes | None) -> AsyncIterator[TcpAddress]:
    """Answers every request so, on a unix socket and a TCP port; None: never. It notes what it was asked."""
    stay = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            await stay.wait()
        else:
            writer.write(answer)
        writer.close()

    asked: list[bytes] = []
    unix = await asyncio.start_unix_server(serve, path)
    tcp = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield TcpAddress(*tcp.sockets[0].getsockname())
        assert all(request.startswith(b"GET /live HTTP/1.1\r\nHost: ") for request in asked)
    finally:
        stay.set()
        for each in (unix, tcp):
            each.close()


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "answered 200 OK"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 503, "answered 503 Service Unavailable"),
        (b"HTTP/1.0 200\r\n\r\n", 200, "answered 200"),
        (b"", 0, "hung up without an answer"),
        (b"HTTP/1.1 20", 0, "hung up without an answer"),
        (b"SSH-2.0-x\r\n", 0, "answered 'SSH-2.0-x', which is not HTTP"),
        (b"HTTP/1.1 abc\r\n", 0, "answered 'HTTP/1.1 abc', which is not HTTP"),
        (None, 0, "no answer within 0.3 s"),
    ],
)
async def test_the_status_or_the_reason_comes_back(
    short_path: Path, answer: bytes | None, status: int, reason: str
) -> None:
    async with server(short_path / "s", answer) as tcp:
        for address in (short_path / "s", tcp):
            found = await probe(address, "/live", 0.3)
            assert (found.status, found.reason, found.ok) == (status, reason, status == 200)


async def test_a_head_without_an_end_is_cut_off(short_path: Path) -> None:
    async with server(short_path / "s", b"x" * 200_000) as tcp:
        found = await probe(tcp, "/live", 5)
    assert (found.status, found.reason) == (0, "answered something endless, which is not HTTP")


async def test_nobody_there_is_a_reason_too(short_path: Path) -> None:
    assert (await probe(short_path / "none", "/live", 1)).reason == "No such file or directory"
    assert (await probe(TcpAddress("127.0.0.1", 1), "/live", 1)).reason == "Connection refused"
