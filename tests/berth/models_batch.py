"""Predictors that score many rows."""

import os
import pathlib
import signal
import time
from typing import Any

import berth


class Doubles:
    @berth.batched
    def predict(self, x: list[int]) -> list[dict[str, int]]:
        """A batch with 13 in it fails; 666 is refused."""
        if 13 in x:
            raise RuntimeError("thirteen")
        if any(value == 666 for value in x):
            raise berth.InputError("x: not this number")
        return [{"double": 2 * value, "batch": len(x), "pid": os.getpid()} for value in x]


class Chatty:
    def load(self) -> None:
        print("loading")

    def predict(self, x: int) -> int:
        print("predicting")
        return x


class Paced:
    def load(self) -> None:
        self.note = pathlib.Path(os.environ["NOTE"])

    def predict(self, x: int) -> int:
        """Says which rows it was given, and takes its time."""
        with self.note.open("a") as file:
            file.write(f"{x}\n")
        time.sleep(0.05)
        return x


class Sleeps:
    def predict(self, x: float) -> float:
        time.sleep(x)
        return x


class Deadly:
    def predict(self, x: int) -> int:
        if x == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return x


class Weighs:
    def predict(self, data: bytes, unit: str = "B") -> str:
        return f"{len(data)} {unit}"


class Named:
    def predict(self, file: berth.File | None = None, factor: int = 1) -> list[Any]:
        return [file.name, len(file.data) * factor] if file else []


class Person:
    def predict(self, name: str, age: int, tags: list[str] = [], ratio: float | None = None) -> list[Any]:  # noqa: B006
        return [name, age, tags, ratio]
