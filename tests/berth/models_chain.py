"""Predictors that call others."""

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from notes import note_at

import berth

Vector = Annotated[np.ndarray, berth.Tensor("float32", (-1,))]  # type: ignore[type-arg]


class Leaf:
    """Adds one; misbehaves when told to, and notes what it ran."""

    def predict(self, x: float, seconds: float = 0.0, note: str = "") -> dict[str, Any]:
        path = note_at(note)
        if path is not None:
            with path.open("a") as file:
                file.write(f"{x:g}\n")
        time.sleep(seconds)
        if x < 0:
            raise berth.InputError("x: expected 0 or more")
        if x == 13:
            raise RuntimeError("thirteen")
        return {"x": x + 1, "pid": os.getpid()}


class Inverse:
    """Changes its input in place."""

    def predict(self, values: Vector) -> Vector:
        values *= -1
        return values


class Pipeline:
    def load(self) -> None:
        self.leaf = berth.use_model("leaf")
        self.inverse = berth.use_model("inverse")
        self.double = berth.use_model("double")

    def predict(self, x: float, size: int = 2, seconds: float = 0.0, note: str = "") -> dict[str, Any]:
        leaf = self.leaf.predict(x=x, seconds=seconds, note=note)
        values = np.full(size, leaf["x"], np.float32)
        inverse = self.inverse.predict(values=values)
        double = self.double.predict(x=inverse.reshape(-1, 2))["y"]
        return {
            "sum": float(double.sum()),
            "kept": float(values[-1]),
            "pids": [os.getpid(), leaf["pid"]],
        }


class PipelineAsync:
    async def load(self) -> None:
        self.leaf = berth.use_model("leaf")

    async def predict(self, x: float, seconds: float = 0.0) -> dict[str, Any]:
        calls = [self.leaf.predict_async(x=x + number, seconds=seconds) for number in range(3)]
        return {"x": [answer["x"] for answer in await asyncio.gather(*calls)]}


class Streaming:
    def load(self) -> None:
        self.leaf = berth.use_model("leaf")
        self.tokens = berth.use_model("tokens")

    def predict(self, count: int) -> Iterator[Any]:
        for number in range(count):
            yield self.leaf.predict(x=number)["x"]
        yield [token.index for token in self.tokens.predict(text="a", count=count)]


class Handles:
    """What a call's failure looks like to the predictor that made it."""

    def load(self) -> None:
        self.leaf = berth.use_model("leaf")

    def predict(self, x: float) -> str:
        try:
            return str(self.leaf.predict(x=x)["x"])
        except berth.InputError as error:
            return f"input: {error}"
        except berth.CallError as error:
            return f"{error.status}: {error}"


class First:
    def load(self) -> None:
        self.next = berth.use_model("second")

    def predict(self, x: float) -> float:
        return float(self.next.predict(x=x))


class Second:
    def load(self) -> None:
        self.next = berth.use_model("third")

    def predict(self, x: float) -> float:
        return float(self.next.predict(x=x)) + 1


class Third:
    def load(self) -> None:
        self.next = berth.use_model("first")

    def predict(self, x: float) -> float:
        return float(self.next.predict(x=x))


class CallsInLoad:
    def load(self) -> None:
        berth.use_model("leaf").predict(x=1.0)

    def predict(self, x: float) -> float:
        return x


class UsesInPredict:
    def predict(self, x: float) -> float:
        return float(berth.use_model("leaf").predict(x=x)["x"])
