"""Predictors that the tests over gRPC serve."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt

import berth


@dataclass
class Total:
    total: float
    text: str


class Sum:
    def predict(self, numbers: Annotated[npt.NDArray[np.float32], berth.Tensor("float32", (3,))], text: str) -> Total:
        return Total(float(numbers.sum()), text + "!")


class Count:
    def predict(self, count: int) -> Iterator[int]:
        if count < 0:
            raise berth.InputError("count: expected 0 or more")
        yield from range(count)


class Gated:
    def predict(self, gate: str) -> Iterator[int]:
        yield 1
        deadline = time.monotonic() + 60
        while not Path(gate).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield 2
