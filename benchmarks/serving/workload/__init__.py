"""What every peer serves: the same models, loaded the same way, in each peer's own environment.

`load` is called by the peers' `serve.py`, which run where only the peer, numpy and onnxruntime are installed. The
harness says by environment variables what to serve, and where: BENCH_MODEL, BENCH_FOLDER, BENCH_PORT and so on.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = os.environ.get("BENCH_MODEL", "")
FOLDER = Path(os.environ.get("BENCH_FOLDER", "."))
PROTOCOL = os.environ.get("BENCH_PROTOCOL", "")
PORT = int(os.environ.get("BENCH_PORT", "0"))
GRPC_PORT = int(os.environ.get("BENCH_GRPC_PORT", "0"))
WORKERS = int(os.environ.get("BENCH_WORKERS", "1"))
SLOW = MODEL == "python"  # computes in Python for 20 ms: belongs into a thread or a process, not on an event loop

Predict = Callable[[Any], Any]


def load() -> Predict:
    """The model as a function: a float32 array `X` with the batch on axis 0 to a float32 array `Y`."""
    kind = "pure" if SLOW else "graph"
    predict: Predict = importlib.import_module(f"benchmarks.serving.workload.{kind}").load(MODEL, FOLDER)
    return predict


def shape() -> tuple[int, ...]:
    """The shape of one row of the input."""
    shapes: dict[str, tuple[int, ...]] = {"tiny": (4,), "medium": (64,), "tensor": (3, 224, 224), "python": (4,)}
    return shapes[MODEL]
