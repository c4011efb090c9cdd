"""The pure-Python model as a predictor of berth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.workload import FOLDER, pure
from berth import Tensor

Row = Annotated[NDArray[np.float32], Tensor("float32", (4,))]


@dataclass
class Result:
    """The output `Y`."""

    Y: Annotated[NDArray[np.float32], Tensor("float32", (1,))]


class Predictor:
    """One row a call."""

    def load(self) -> None:
        """Read how much work is wanted."""
        self.run = pure.load("python", FOLDER)

    def predict(self, X: Row) -> Result:  # noqa: N803
        """About 20 ms."""
        return Result(self.run(X[None])[0])
