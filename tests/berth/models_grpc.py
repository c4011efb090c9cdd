"""Predictors that the conformance tests of gRPC clients serve."""

from collections.abc import Iterator
from dataclasses import dataclass
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
