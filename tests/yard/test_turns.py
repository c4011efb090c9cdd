"""Turns: so many at once, first come first served, each given back exactly once; and what comes after them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from dockyard.yard.turns import Turns

LONG = 60.0


async def settle() -> None:
    """Let everything that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


class Starts:
    """Starts that last until they are told to end."""

    def __init__(self) -> None:
        self._turns = Turns(2)
        self.running: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def begin(self, name: str, longest: float = LONG, hurry: asyncio.Event | None = None) -> asyncio.Task[None]:
        """Ask for a turn."""
        return self._begin(name, self._turns.turn(longest, hurry or asyncio.Event()))

    def begin_last(self, name: str, patience: float = LONG) -> asyncio.Task[None]:
        """What can wait longer."""
        return self._begin(name, self._turns.afterwards(patience))

    def _begin(self, name: str, turn: AbstractAsyncContextManager[None]) -> asyncio.Task[None]:
        self._ends[name] = asyncio.Event()
        return asyncio.create_task(self._run(name, turn))

    def end(self, name: str) -> None:
        """What a start waits for."""
        self._ends[name].set()

    async def _run(self, name: str, turn: AbstractAsyncContextManager[None]) -> None:
        async with turn:
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)


@pytest.fixture
def starts() -> Starts:
    return Starts()


async def test_more_than_fit_wait_and_are_served_in_their_order(starts: Starts) -> None:
    tasks = [starts.begin(name) for name in "abcd"]
    await settle()
    assert starts.running == ["a", "b"]
    starts.end("b")
    await settle()
    assert starts.running == ["a", "c"]
    for name in "acd":
        starts.end(name)
    await asyncio.gather(*tasks)
    assert starts.running == []


async def test_one_that_is_cancelled_gives_its_turn_back_whether_it_had_one_or_waited(starts: Starts) -> None:
    a, _b, c, _d = (starts.begin(name) for name in "abcd")
    await settle()
    c.cancel()
    a.cancel()
    await settle()
    assert starts.running == ["b", "d"]


async def test_a_turn_that_lasts_too_long_is_given_on_once_and_not_again_at_the_end(starts: Starts) -> None:
    a, b = starts.begin("a", 0.01), starts.begin("b")
    c = starts.begin("c")
    await asyncio.wait_for(_until(lambda: "c" in starts.running), 10)
    starts.end("a")
    await a
    d = starts.begin("d")
    await settle()
    assert starts.running == ["b", "c"]
    for name in "bcd":
        starts.end(name)
    await asyncio.gather(b, c, d)


async def test_who_is_in_a_hurry_waits_for_no_turn_and_takes_none_away(starts: Starts) -> None:
    hurry = asyncio.Event()
    a, b = starts.begin("a"), starts.begin("b")
    c, d = starts.begin("c", hurry=hurry), starts.begin("d")
    last = starts.begin_last("last")
    await settle()
    assert starts.running == ["a", "b"]
    hurry.set()
    await settle()
    assert starts.running == ["a", "b", "c"]
    starts.end("c")
    await c
    await settle()
    assert starts.running == ["a", "b"]
    starts.end("a")
    await settle()
    assert starts.running == ["b", "d"]
    for name in ("b", "d"):
        starts.end(name)
    await asyncio.gather(a, b, d)
    await settle()
    assert starts.running == ["last"]
    starts.end("last")
    await last


async def test_what_can_wait_longest_comes_after_all_starts_and_one_after_the_other(starts: Starts) -> None:
    a, b, c = (starts.begin(name) for name in "abc")
    x, y = starts.begin_last("x"), starts.begin_last("y")
    await settle()
    for name in "ab":
        starts.end(name)
    await asyncio.gather(a, b)
    await settle()
    assert starts.running == ["c"]
    starts.end("c")
    await c
    await settle()
    assert starts.running == ["x"]
    d = starts.begin("d")  # what starts does not wait for what ends
    await settle()
    assert starts.running == ["x", "d"]
    starts.end("x")
    await x
    await settle()
    assert starts.running == ["d"]
    for name in "dy":
        starts.end(name)
    await asyncio.gather(d, y)


async def test_what_can_wait_waits_no_longer_than_it_was_told_to(starts: Starts) -> None:
    a = starts.begin("a")
    await settle()
    x, y = starts.begin_last("x", 0.01), starts.begin_last("y", 0.01)
    await asyncio.wait_for(_until(lambda: len(starts.running) == 3), 10)
    z = starts.begin_last("z")
    await settle()
    z.cancel()
    for name in "axy":
        starts.end(name)
    await asyncio.gather(a, x, y)
    last = starts.begin_last("last")
    await settle()
    assert starts.running == ["last"]
    starts.end("last")
    await last


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)
