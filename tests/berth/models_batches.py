"""Predictors that say in which batches they were asked."""

import asyncio
import math
import os
import signal
import time
from typing import Annotated

import msgspec
import numpy as np

import berth

Row = Annotated[np.ndarray, berth.Tensor("float32", (2,))]  # type: ignore[type-arg]


class Seen(msgspec.Struct):
    value: float
    batch: int
    warmed: str


class Sizes:
    """Doubles its input in place, and remembers the length of each call."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    @berth.batched
    def predict(self, x: list[Row]) -> list[Seen]:
        self.sizes.append(len(x))
        for row in x:
            np.multiply(row, 2, out=row)
        return [Seen(float(row[0]), len(x), str(self.sizes[:3])) for row in x]


class SizesAsync(Sizes):
    @berth.batched
    async def predict(self, x: list[Row]) -> list[Seen]:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().predict(x)


KILLS = 1e30


class Picky:
    """Sums rows of any length; raises at negative numbers, ends its process at KILLS."""

    @berth.batched
    def predict(self, x: list[Annotated[np.ndarray, berth.Tensor("float32", (-1,))]]) -> list[float]:  # type: ignore[type-arg]
        time.sleep(0.002)
        if any(float(row.max()) >= KILLS for row in x):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(float(row.min()) < 0 for row in x):
            raise RuntimeError("negative")
        return [math.fsum(row.tolist()) for row in x]
