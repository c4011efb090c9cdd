"""ONNX models, run by onnxruntime on the CPU.

Options: `optimization` ("all", "extended", "basic" or "none"). Found by name through backends/base.py.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from berth.backends.base import Options
from berth.bfloat16 import narrow, widen
from berth.errors import ModelError
from berth.tensors import Array, TensorSpec

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}
_BFLOAT16 = 16  # TensorProto.BFLOAT16
_Value = onnxruntime.OrtValue
_LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class OnnxBackend:
    """One onnxruntime session."""

    platform = "onnxruntime_onnx"

    def __init__(self, session: Any) -> None:
        self.inputs = [_spec(item) for item in session.get_inputs()]
        self.outputs = [_spec(item) for item in session.get_outputs()]
        self.joins_rows = _joins_rows([*session.get_inputs(), *session.get_outputs()])
        self._names = [item.name for item in self.outputs]
        self._texts = frozenset(item.name for item in self.inputs if item.datatype == "BYTES")
        self._run = session.run
        bfloats = frozenset(item.name for item in (*self.inputs, *self.outputs) if item.datatype == "BF16")
        if bfloats and self._texts:
            raise ModelError("onnxruntime's Python API cannot run a model that takes text and has bfloat16 tensors")
        if bfloats:
            self._run = functools.partial(_run_with_bfloats, session, bfloats)

    def infer(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once."""
        if self._texts:
            arrays = {name: _as_text(value) if name in self._texts else value for name, value in arrays.items()}
        return dict(zip(self._names, self._run(self._names, arrays), strict=True))


def load(path: Path, options: Options) -> OnnxBackend:
    """Open the model; ModelError when onnxruntime refuses it or it has an output that is no tensor."""
    level = options.only("optimization").get("optimization", "all")
    if level not in _LEVELS:
        raise ModelError(f"BERTH_OPTIONS: optimization: expected one of {', '.join(_LEVELS)}, got {level!r}")
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = _LEVELS[level]
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    # Spinning threads burn a core while idle, and the arena keeps the largest batch's memory for ever.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.enable_cpu_mem_arena = False
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{path}: onnxruntime cannot load it: {error}") from error
    return OnnxBackend(session)


def _run_with_bfloats(
    session: Any, bfloats: frozenset[str], names: Sequence[str], arrays: Mapping[str, Array]
) -> list[Array]:
    """As `session.run`, for tensors that numpy has no type for: their bits go in and come out by address."""
    values = {
        name: _Value.ortvalue_from_numpy_with_onnx_type(narrow(array), _BFLOAT16)
        if name in bfloats
        else _Value.ortvalue_from_numpy(array)
        for name, array in arrays.items()
    }
    answers = zip(names, session.run_with_ort_values(names, values), strict=True)
    return [_bfloats_of(value) if name in bfloats else value.numpy() for name, value in answers]


def _bfloats_of(value: Any) -> Array:
    shape = value.shape()
    bits = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return widen(np.frombuffer(bits, np.uint16)).reshape(shape)


def _spec(item: Any) -> TensorSpec:
    kind = item.type.removeprefix("tensor(").removesuffix(")")
    if kind not in _DATATYPES:
        raise ModelError(
            f"{item.name!r} has the type {item.type}, which is no tensor that can travel; "
            "export the model with plain tensors (skl2onnx: options={'zipmap': False})"
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in item.shape)
    return TensorSpec(item.name, _DATATYPES[kind], shape)


def _joins_rows(items: Sequence[Any]) -> bool:
    """Whether axis 0 is the batch: free everywhere, and where it has a name, the same one."""
    if any(not item.shape or isinstance(item.shape[0], int) for item in items):
        return False
    return len({item.shape[0] for item in items if item.shape[0] is not None}) <= 1


def _as_text(array: Array) -> Array:
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    return np.array(texts, dtype=object).reshape(array.shape)
