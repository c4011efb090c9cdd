"""What the tests with real clients share: models of every datatype, servers on a TCP port, and their numpy twins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.berth.support import Berth, serving

COLUMNS = 3
ENCODED = "team/iris v2"  # a model name that has to be percent-encoded


@dataclass(frozen=True)
class Kind:
    """One of V2's datatypes: ONNX's name for it, and two rows of values that are easily damaged."""

    datatype: str
    onnx: int
    values: Any

    @property
    def input(self) -> str:
        return f"{self.datatype.lower()}_in"

    @property
    def output(self) -> str:
        return f"{self.datatype.lower()}_out"

    @property
    def array(self) -> Any:
        dtypes: dict[str, Any] = {"BOOL": bool, "BYTES": object, "BF16": ml_dtypes.bfloat16}
        name = self.datatype.lower().replace("fp", "float")
        return np.array(self.values, dtypes.get(self.datatype, name))


def _limits(name: str) -> list[list[int]]:
    limits = np.iinfo(name)
    return [[limits.min, limits.max, 1], [limits.max - 1, 0, 7]]


KINDS = (
    Kind("BOOL", TensorProto.BOOL, [[True, False, False], [False, True, True]]),
    Kind("BYTES", TensorProto.STRING, [["a", "ä\u0000b", ""], ['"\\\n', "€" * 50, "{}"]]),
    Kind("FP16", TensorProto.FLOAT16, [[0.5, -65504.0, 6e-8], [1.0, 2.0, 3.0]]),
    Kind("FP32", TensorProto.FLOAT, [[0.1, -3.4e38, 1e-45], [1.5, 0.0, 16777217.0]]),
    Kind("FP64", TensorProto.DOUBLE, [[0.1, -1.7e308, 5e-324], [1 / 3, 0.0, 2.0**53]]),
    *(Kind(f"INT{bits}", getattr(TensorProto, f"INT{bits}"), _limits(f"int{bits}")) for bits in (8, 16, 32, 64)),
    *(Kind(f"UINT{bits}", getattr(TensorProto, f"UINT{bits}"), _limits(f"uint{bits}")) for bits in (8, 16, 32, 64)),
)
BRAIN = Kind("BF16", TensorProto.BFLOAT16, [[1.0, -2.5, 3.0e38], [0.0, float("inf"), 0.1]])


def turning(path: Path, *kinds: Kind) -> None:
    """An ONNX file that takes every kind and answers with its columns in the opposite order."""
    inputs, outputs = (
        [helper.make_tensor_value_info(getattr(kind, end), kind.onnx, ["N", COLUMNS]) for kind in kinds]
        for end in ("input", "output")
    )
    nodes = [helper.make_node("Gather", [kind.input, "order"], [kind.output], axis=1) for kind in kinds]
    order = helper.make_tensor("order", TensorProto.INT64, [COLUMNS], list(reversed(range(COLUMNS))))
    write(path, helper.make_graph(nodes, "turning", inputs, outputs, [order]))


def adding(path: Path, amount: float) -> None:
    """y = x + amount, for float32 [N, M]."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "M"]) for name in "xy")
    constant = helper.make_tensor("amount", TensorProto.FLOAT, [], [amount])
    write(path, helper.make_graph([helper.make_node("Add", ["x", "amount"], ["y"])], "adding", [x], [y], [constant]))


def write(path: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def models(folder: Path, backend: str, workers: int) -> str:
    """A file of models for `backend` ("predictor" or "onnx"): of every datatype, of two versions, hard to spell."""
    turning(folder / "every.onnx", *KINDS)
    turning(folder / "brain.onnx", BRAIN)
    adding(folder / "one.onnx", 1)
    adding(folder / "two.onnx", 2)
    one, two = ({"format": "onnx", "weights": str(folder / f"{name}.onnx")} for name in ("one", "two"))
    if backend == "onnx":
        every, brain = ({"format": "onnx", "weights": str(folder / f"{name}.onnx")} for name in ("every", "brain"))
    else:
        every, brain = {"predictor": "models_clients:EveryDatatype"}, {"predictor": "models_clients:Brains"}
    entries = [
        {"name": "every", **every, "workers": workers},
        {"name": "brain", **brain, "workers": workers},
        {"name": "add", "version": "1", **one},
        {"name": "add", "version": "2.0-rc.1", **two},
        {"name": ENCODED, "version": "7", **one, "workers": workers},
        {"name": "nap", "predictor": "models_clients:Nap", "workers": workers},
        {"name": "spare", **one, "at_start": False},
    ]
    path = folder / f"{backend}-{workers}.json"
    path.write_text(json.dumps(entries))
    return str(path)


@contextmanager
def listening(**settings: str) -> Iterator[str]:
    """A berth on a TCP port of the loopback interface, and its `host:port`."""
    with serving(SOCKET="", HOST="127.0.0.1", PORT="0", **settings) as server:
        yield address_of(server)


def address_of(server: Berth) -> str:
    """Where it listens, as its own log says."""
    (url,) = server.wait_for_event("ready")["listeners"]
    return str(url).removeprefix("http://")
