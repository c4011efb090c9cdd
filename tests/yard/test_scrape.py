"""Replicas are asked for their pages at once; those who hang, lie or flood cost a bounded time, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dockyard.yard import readings
from dockyard.yard.exposition import read
from dockyard.yard.scrape import Fetched, Missing, Page, fetch, fetch_all, rotated
from tests.berth.support import predictor, serving

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(path: Path, behave: Behaviour) -> AsyncIterator[Page]:
    running: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await behave(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            running.discard(task)

    listening = await asyncio.start_unix_server(one, str(path))
    async with listening:
        yield Page(path)
    await asyncio.sleep(0.05)  # what was accepted last begins, and can be ended
    for task in tuple(running):
        task.cancel()
    await asyncio.gather(*running)


def saying(*pieces: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return behave


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"a 1\n" * 10_000)
        await writer.drain()


async def test_a_real_berth_says_what_it_counted() -> None:
    with serving(**predictor("Typed", MODEL_NAME="typed")) as berth:
        assert berth.post("/predict", {}).status == 422
        text = await fetch(Page(Path(berth.socket_path)), deadline=10)
        assert isinstance(text, str)
        reading = readings.of_replica(read(text, wanted=readings.BERTH))
        assert reading is not None
        assert (reading.requests, reading.errors, reading.in_flight) == (1, 0, 0)
        assert len(reading.buckets) > 10


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na \r\n", b"2\r\n1\n\r\n0\r\n\r\n"),
        (b"HTTP/1.0 200 OK\r\n\r\na ", b"1\n"),
    ],
)
async def test_every_way_to_end_a_body_is_understood(short_path: Path, pieces: tuple[bytes, ...]) -> None:
    async with server(short_path / "s", saying(*pieces)) as page:
        assert await fetch(page) == "a 1\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"nonsense\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\n",),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\na 1\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\na 1\n",),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na ",),
    ],
)
async def test_what_is_no_whole_page_is_no_answer(short_path: Path, pieces: tuple[bytes, ...]) -> None:
    async with server(short_path / "s", saying(*pieces)) as page:
        assert await fetch(page) is Missing.NO_ANSWER


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "301 Moved Permanently"])
async def test_a_server_that_has_no_such_page_says_so(short_path: Path, status: str) -> None:
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\na 1\n".encode()
    async with server(short_path / "s", saying(answer)) as page:
        assert await fetch(page) is Missing.NO_PAGE
        assert await fetch_all({"x": page}, within=5) == Fetched({}, frozenset({"x"}))


async def test_nobody_there_is_no_error(short_path: Path) -> None:
    assert await fetch(Page(short_path / "none")) is Missing.NO_ANSWER
    assert await fetch(Page(port=1)) is Missing.NO_PAGE


async def test_a_page_that_does_not_end_is_left_at_the_bound(short_path: Path) -> None:
    async with server(short_path / "s", flood) as page:
        assert await fetch(page, deadline=20, most=1 << 20) is Missing.NO_ANSWER


async def test_a_server_over_tcp_is_asked_too() -> None:
    answer = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n")

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer)
        writer.close()

    listening = await asyncio.start_server(behave, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        assert await fetch_all({"x": Page(port=port)}, within=5) == Fetched({"x": "a 1\n"})


async def test_those_who_hang_are_left_and_those_without_a_page_are_not_asked(short_path: Path) -> None:
    good = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n")
    async with server(short_path / "h", hang) as hanging, server(short_path / "g", good) as answering:
        pages = {f"hangs-{number}": hanging for number in range(3)} | {"good": answering, "none": Page()}
        assert await fetch_all(pages, within=10, deadline=0.2, concurrency=2) == Fetched({"good": "a 1\n"})
        assert await fetch_all(pages, within=0.2, deadline=10, concurrency=2) == Fetched({})


def test_everybody_is_first_once() -> None:
    assert [rotated("abc", turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert rotated([], 3) == []
