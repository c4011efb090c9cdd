"""Predictors that real clients ask: one tensor of every datatype, text, pictures, and failures."""

import enum
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

import berth

Bools = Annotated[npt.NDArray[np.bool_], berth.Tensor("bool", (3,))]
Bytes = Annotated[npt.NDArray[np.object_], berth.Tensor("object", (3,))]
Float16 = Annotated[npt.NDArray[np.float16], berth.Tensor("float16", (3,))]
Float32 = Annotated[npt.NDArray[np.float32], berth.Tensor("float32", (3,))]
Float64 = Annotated[npt.NDArray[np.float64], berth.Tensor("float64", (3,))]
Bfloat16 = Annotated[npt.NDArray[np.float32], berth.Tensor("bfloat16", (3,))]
Int8 = Annotated[npt.NDArray[np.int8], berth.Tensor("int8", (3,))]
Int16 = Annotated[npt.NDArray[np.int16], berth.Tensor("int16", (3,))]
Int32 = Annotated[npt.NDArray[np.int32], berth.Tensor("int32", (3,))]
Int64 = Annotated[npt.NDArray[np.int64], berth.Tensor("int64", (3,))]
Uint8 = Annotated[npt.NDArray[np.uint8], berth.Tensor("uint8", (3,))]
Uint16 = Annotated[npt.NDArray[np.uint16], berth.Tensor("uint16", (3,))]
Uint32 = Annotated[npt.NDArray[np.uint32], berth.Tensor("uint32", (3,))]
Uint64 = Annotated[npt.NDArray[np.uint64], berth.Tensor("uint64", (3,))]


class Turned(msgspec.Struct):
    """Every input, its columns in the opposite order."""

    bool_out: Bools
    bytes_out: Bytes
    fp16_out: Float16
    fp32_out: Float32
    fp64_out: Float64
    int8_out: Int8
    int16_out: Int16
    int32_out: Int32
    int64_out: Int64
    uint8_out: Uint8
    uint16_out: Uint16
    uint32_out: Uint32
    uint64_out: Uint64


class EveryDatatype:
    def predict(
        self,
        bool_in: Bools,
        bytes_in: Bytes,
        fp16_in: Float16,
        fp32_in: Float32,
        fp64_in: Float64,
        int8_in: Int8,
        int16_in: Int16,
        int32_in: Int32,
        int64_in: Int64,
        uint8_in: Uint8,
        uint16_in: Uint16,
        uint32_in: Uint32,
        uint64_in: Uint64,
    ) -> Turned:
        """Turns the columns of every input round."""
        values = [bool_in, bytes_in, fp16_in, fp32_in, fp64_in, int8_in, int16_in, int32_in, int64_in]
        return Turned(*(value[::-1] for value in (*values, uint8_in, uint16_in, uint32_in, uint64_in)))


class Brains:
    def predict(self, bf16_in: Bfloat16) -> Annotated[npt.NDArray[np.float32], berth.Tensor("bfloat16", (3,))]:
        """Turns the columns round; numbers with eight bits of mantissa."""
        assert bf16_in.dtype == np.float32
        return bf16_in[::-1]


class Nap:
    def predict(self, seconds: float) -> float:
        """Sleeps for so long; fails below zero."""
        if seconds < 0:
            raise RuntimeError("a secret of the model")
        time.sleep(seconds)
        return seconds


class Words:
    def predict(self, text: str, count: Annotated[int, berth.Meta(ge=0, le=5)] = 2) -> Iterator[str]:
        """The text, so many times."""
        for _ in range(count):
            yield text


class Mood(enum.Enum):
    CALM = "calm"
    CROSS = "cross"


@dataclass
class Place:
    """Somewhere."""

    latitude: Annotated[float, berth.Meta(ge=-90, le=90)]
    longitude: Annotated[float, berth.Meta(ge=-180, le=180)]


@dataclass
class Trip:
    """From one place to others."""

    start: Place
    stops: list[Place] = field(default_factory=list)
    name: Annotated[str, berth.Meta(min_length=1, max_length=20)] = "trip"


class Report(msgspec.Struct):
    """What was understood."""

    words: list[str]
    stops: int
    mood: Mood
    total: float
    note: str | None = None


class Planner:
    def predict(
        self,
        trip: Trip,
        weights: Annotated[npt.NDArray[np.float32], berth.Tensor("float32", (-1, 2))],
        mood: Mood = Mood.CALM,
        tags: Annotated[list[str], berth.Meta(max_length=5)] = [],  # noqa: B006
        speed: Annotated[int, berth.Meta(ge=1, le=300)] = 50,
        extra: dict[str, int] | None = None,
    ) -> Report:
        """Nested structs, an enum, constraints and an array."""
        total = float(np.nan_to_num(weights, posinf=0, neginf=0).astype(np.float64).sum())
        return Report([trip.name, *tags], len(trip.stops), mood, total * speed, str(extra) if extra else None)


class Gallery:
    def predict(self, picture: berth.Image, attachment: berth.File | None = None, title: str = "") -> dict[str, Any]:
        """A picture, perhaps a file, and a text."""
        return {"width": picture.width, "bytes": len(attachment.data) if attachment else 0, "title": title}
