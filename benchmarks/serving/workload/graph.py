"""An ONNX model with one thread, no spinning and no memory arena: the same settings for every peer and for berth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.serving.workload import Predict


def load(model: str, folder: Path) -> Predict:
    """One onnxruntime session."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.enable_cpu_mem_arena = False
    path = str(folder / f"{model}.onnx")
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    run, names = session.run, ["Y"]

    def predict(array: Any) -> Any:
        return run(names, {"X": array})[0]

    return predict
