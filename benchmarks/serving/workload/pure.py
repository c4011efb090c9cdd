"""A predictor in pure Python that computes for about 20 ms a row, holding the interpreter's lock.

The harness measures once how many rounds that takes on this machine and writes the number into `python.json`, so that
every peer does the same work.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.workload import Predict


def burn(start: float, rounds: int) -> float:
    """Pure Python work whose result depends on every round."""
    total = start
    for number in range(rounds):
        total = (total * 1.000001 + number) % 1000.0
    return total


def predict(rounds: int, array: Any) -> Any:
    """One row after the other."""
    return np.array([[burn(float(row.sum()), rounds)] for row in array], dtype=np.float32)


def load(_model: str, folder: Path) -> Predict:
    """The predictor, picklable, because some peers hand it to the processes that they start."""
    return partial(predict, int(json.loads((folder / "python.json").read_text())["rounds"]))
