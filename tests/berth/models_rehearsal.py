"""Predictors that count how often they are asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TypedDict


class Counted(TypedDict):
    """The answer, and how many times it was asked for."""

    value: float
    asked: int


class Counts:
    """Tells how often it was asked; the first time is the golden's."""

    def __init__(self) -> None:
        self.asked = 0

    def predict(self, x: float) -> Counted:
        self.asked += 1
        return {"value": 2 * x, "asked": self.asked}


class CountsApart(Counts):
    """The same as a coroutine."""

    async def predict(self, x: float) -> Counted:  # type: ignore[override]
        return super().predict(x)


class Yields:
    """The same, item by item."""

    def __init__(self) -> None:
        self.asked = 0

    def predict(self, x: float) -> Iterator[float]:
        self.asked += 1
        yield x
        yield float(self.asked)


class YieldsApart:
    """The same from a coroutine."""

    def __init__(self) -> None:
        self.asked = 0

    async def predict(self, x: float) -> AsyncIterator[float]:
        self.asked += 1
        yield x
        yield float(self.asked)
