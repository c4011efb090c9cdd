"""Predictors that yield or await."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import msgspec
from notes import note_at

import berth


class Token(msgspec.Struct):
    text: str
    index: int


class Tokens:
    def predict(self, text: str, count: int, pause: float = 0.0, note: str = "") -> Iterator[Token]:
        """One token after the other."""
        path = note_at(note)
        try:
            for index in range(count):
                if index and pause:
                    time.sleep(pause)
                if text == "break" and index == 2:
                    raise RuntimeError("a secret of the model")
                if text == "refuse":
                    raise berth.InputError("text: not this one")
                yield Token(text, index)
        finally:
            if path is not None:
                path.write_text("closed")


class AsyncTokens:
    async def load(self) -> None:
        await asyncio.sleep(0)
        self.loop = asyncio.get_running_loop()

    async def predict(self, text: str, count: int, pause: float = 0.0, note: str = "") -> AsyncIterator[Token]:
        assert asyncio.get_running_loop() is self.loop
        path = note_at(note)
        try:
            for index in range(count):
                await asyncio.sleep(pause)
                if text == "break" and index == 2:
                    raise RuntimeError("a secret of the model")
                yield Token(text, index)
        finally:
            if path is not None:
                path.write_text("closed")


class Sleeper:
    async def load(self) -> None:
        await asyncio.sleep(0)
        self.loop = asyncio.get_running_loop()

    async def predict(self, seconds: float) -> float:
        assert asyncio.get_running_loop() is self.loop
        if seconds < 0:
            raise berth.InputError("seconds: expected 0 or more")
        await asyncio.sleep(seconds)
        return seconds


class Bulky:
    def predict(self, count: int, note: str) -> Iterator[str]:
        path = note_at(note)
        for index in range(count):
            if path is not None:
                path.write_text(str(index + 1))
            yield "x" * 100_000
