"""Predictors that the tests serve: one class per kind of behaviour."""

import enum
import os
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

import berth


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: float = 0.0


class Verdict(msgspec.Struct):
    """What came of it."""

    label: str
    score: Annotated[float, berth.Meta(description="from 0 to 1")]
    vector: Annotated[npt.NDArray[np.float32], berth.Tensor("float32", (3,))]


class Typed:
    """Takes one of every kind.

    The second paragraph shows up too.
    """

    def load(self) -> None:
        self.loaded = True

    def predict(
        self,
        count: Annotated[int, berth.Meta(ge=1, le=10, description="How many <b>times</b>.")],
        name: Annotated[str, berth.Meta(min_length=1)],
        numbers: Annotated[npt.NDArray[np.float32], berth.Tensor("float32", (-1, 2))],
        colour: Colour = Colour.RED,
        mode: Literal["fast", "slow"] = "fast",
        point: Point | None = None,
        tags: list[str] = [],  # noqa: B006
        ratio: float = 0.5,
    ) -> dict[str, Any]:
        """Says back what it was given."""
        tags.append("seen")
        return {
            "loaded": self.loaded,
            "text": name * count,
            "sum": float(numbers.sum()),
            "dtype": str(numbers.dtype),
            "colour": colour.value,
            "mode": mode,
            "point": None if point is None else [point.x, point.y],
            "tags": tags,
            "ratio": ratio,
        }


class Structured:
    def predict(self, x: float, label: str = "a") -> Verdict:
        return Verdict(label, x / 2, np.full(3, x, dtype=np.float32))


class Pictures:
    def predict(self, image: berth.Image, extra: berth.File | None = None) -> dict[str, Any]:
        pixels = image.array()
        return {
            "shape": list(pixels.shape),
            "mean": float(pixels.mean()),
            "type": image.content_type,
            "extra": None if extra is None else [extra.name, extra.read().decode("latin-1")],
        }


class Files:
    def predict(self, files: list[berth.File], n: int = 1, text: str = "") -> dict[str, Any]:
        return {
            "sizes": [len(file.data) for file in files],
            "names": [file.name for file in files],
            "n": n,
            "text": text,
        }


class Echo:
    def predict(self, file: berth.File) -> berth.File:
        return berth.File(file.data[::-1])


class Batched:
    @berth.batched
    def predict(self, x: list[int], slow: list[float]) -> list[dict[str, int]]:
        time.sleep(max(slow))
        if any(value == 13 for value in x):
            raise RuntimeError("thirteen")
        if any(value < 0 for value in x):
            raise berth.InputError("x: expected 0 or more")
        return [{"x": value, "batch": len(x)} for value in x]


class BatchedArrays:
    @berth.batched
    def predict(self, x: list[Annotated[np.ndarray, berth.Tensor("float32", (-1,))]]) -> list[dict[str, float]]:  # type: ignore[type-arg]
        time.sleep(0.05)
        return [{"sum": float(total), "batch": len(x)} for total in np.stack(x).sum(axis=1)]


class BatchedMiscounts:
    @berth.batched
    def predict(self, x: list[int]) -> list[int]:
        return [*x, 1]


class RaisesInLoad:
    def load(self) -> None:
        raise RuntimeError("the weights are gone")

    def predict(self, x: int) -> int:
        return x


class RaisesInPredict:
    def predict(self, x: int) -> int:
        if x == 2:
            raise SystemExit(3)
        if x == 3:
            raise berth.InputError("x: three is not for me")
        if x == 4:
            return object()  # type: ignore[return-value]
        if x == 1:
            raise RuntimeError("broken\nby\x1bdesign")
        return x


class Slow:
    def predict(self, seconds: float, busy: bool = False) -> float:
        if busy:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                sum(range(1000))
        else:
            time.sleep(seconds)
        return seconds


class NotANumber:
    def predict(self, x: float) -> dict[str, Any]:
        return {"values": np.array([np.nan, np.inf, x]), "one": float("nan")}


class Environment:
    def predict(self, name: str) -> str | None:
        return os.environ.get(name)


class NoHints:
    def predict(self, x):  # type: ignore[no-untyped-def]
        return x


class Stream:
    def predict(self, x: int) -> list[int]:  # type: ignore[misc]
        yield x


class BareArray:
    def predict(self, x: np.ndarray) -> int:  # type: ignore[type-arg]
        return 0


class SlowLoad:
    def load(self) -> None:
        time.sleep(0.5)

    def predict(self, x: int) -> int:
        return x + 1
