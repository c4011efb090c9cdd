"""Predictors for the protocols of other servers: one class per shape of inputs and outputs."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

import berth

Vector = Annotated[npt.NDArray[np.float32], berth.Tensor("float32", (-1,))]


@dataclass
class Split:
    low: str
    high: int


class Named(NamedTuple):
    only: bytes
    size: int


class Shout:
    def predict(self, text: str, times: int = 1) -> str:
        if text == "refuse":
            raise berth.InputError("text: not this one")
        if text == "break":
            raise RuntimeError("a secret of the model")
        if text == "slow":
            time.sleep(3)
        return text.upper() * times


class Divide:
    @berth.batched
    def predict(self, text: list[str], number: list[int]) -> list[Split]:
        return [Split(word.lower(), value * 2) for word, value in zip(text, number, strict=True)]


class AsyncDivide:
    async def predict(self, text: str, number: int) -> Split:
        await asyncio.sleep(0)
        return Split(text.lower(), number * 2)


class Blob:
    def predict(self, data: bytes) -> Named:
        return Named(data[::-1], len(data))


class Reverse:
    def predict(self, file: berth.File, prefix: str = "") -> berth.File:
        return berth.File(prefix.encode() + file.data[::-1], content_type="application/x-reversed")


class Picture:
    def predict(self, image: berth.Image) -> dict[str, Any]:
        return {"shape": list(image.array().shape), "type": image.content_type}


class Sum:
    def predict(
        self, x: Annotated[npt.NDArray[np.float32], berth.Tensor("float32", (-1,))], scale: float = 1.0
    ) -> float:
        return float(x.sum()) * scale


class Mix:
    def predict(self, size: float, colour: str, whole: int = 0) -> dict[str, Any]:
        return {"size": size, "colour": colour, "whole": whole}


class Wide:
    def predict(self, a: float, b: float, c: float = 0.5) -> Split:
        return Split(f"{a}/{b}/{c}", int(a + b))


class Tokens:
    def predict(self, text: str) -> Iterator[str]:
        for word in text.split():
            if word == "break":
                raise RuntimeError("a secret of the model")
            yield word + " "


class Structs:
    async def predict(self, text: str) -> AsyncIterator[dict[str, str]]:
        for word in text.split():
            await asyncio.sleep(5 if word == "wait" else 0)
            yield {"word": word}


class Embed:
    @berth.batched
    def predict(self, text: list[str]) -> list[Annotated[npt.NDArray[np.float32], berth.Tensor("float32", (3,))]]:
        return [np.array([len(word), word.count("a"), 0.1], dtype=np.float32) for word in text]


class EmbedAll:
    async def predict(self, texts: list[str], dimensions: int = 2) -> list[list[float]]:
        await asyncio.sleep(0)
        return [[float(len(word)), 0.5, 0.25, 0.125][:dimensions] for word in texts]


class Counted(msgspec.Struct):
    embedding: list[float]
    prompt_tokens: int


class EmbedCounted:
    def predict(self, input: str) -> Counted:  # noqa: A002
        return Counted([1.0, 2.0], 40 + len(input))


class Message(msgspec.Struct):
    role: str
    content: str


class Chat:
    """Says back the last message, a word at a time."""

    def predict(self, messages: list[Message], temperature: float = 1.0, max_tokens: int = 16) -> Iterator[str]:
        words = messages[-1].content.split() if messages else []
        if words[:1] == ["settings"]:
            words = [f"temperature={temperature}", f"max_tokens={max_tokens}"]
        for index, word in enumerate(words[:max_tokens]):
            if word == "refuse":
                raise berth.InputError("messages: not this one")
            if word == "break":
                raise RuntimeError("a secret of the model")
            if word == "wait":
                time.sleep(3)
            yield word if index == 0 else f" {word}"


class AsyncChat:
    async def predict(self, messages: list[dict[str, str]]) -> AsyncIterator[str]:
        for word in messages[-1]["content"].split():
            await asyncio.sleep(5 if word == "wait" else 0)
            yield word


class Reply(msgspec.Struct):
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class WholeChat:
    def predict(self, messages: list[dict[str, Any]], stop: list[str] | None = None, seed: int | None = None) -> Reply:
        return Reply(f"{len(messages)} {stop} {seed}", "length", 7, 3)


class Complete:
    def predict(self, prompt: str, max_tokens: int = 16) -> str:
        return prompt[::-1][:max_tokens]


class CompleteStream:
    def predict(self, prompt: str, stop: str = "") -> Iterator[str]:
        for letter in prompt:
            if letter == stop:
                return
            yield letter


class Wrong:
    def predict(self, prompt: str) -> Any:
        return 3
