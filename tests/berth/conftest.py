"""Models that several test files serve, trained once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import joblib
import onnx
import pytest
from onnx import TensorProto, helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests.berth.support import Berth, predictor, serving


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with double.onnx, counted.onnx, fixed.onnx, pair.onnx, text.onnx, half.onnx and iris.joblib."""
    folder = tmp_path_factory.mktemp("weights")
    _save(folder / "double.onnx", "FLOAT", ["N", 2], [helper.make_node("Add", ["x", "x"], ["y"])])
    count = [  # y = x + the rows of the batch that it is in
        helper.make_node("Shape", ["x"], ["shape"], start=0, end=1),
        helper.make_node("Cast", ["shape"], ["rows"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "rows"], ["y"]),
    ]
    _save(folder / "counted.onnx", "FLOAT", ["N", 2], count)
    _save(folder / "fixed.onnx", "FLOAT", [1, 2], [helper.make_node("Add", ["x", "x"], ["y"])])
    _save(folder / "half.onnx", "FLOAT16", ["N", 2], [helper.make_node("Identity", ["x"], ["y"])])
    _save(folder / "text.onnx", "STRING", ["N"], [helper.make_node("Identity", ["x"], ["y"])])
    _save(folder / "wide.onnx", "FLOAT", ["N", "M"], [helper.make_node("Add", ["x", "x"], ["y"])])
    _save(folder / "bytes.onnx", "INT8", ["N"], [helper.make_node("Identity", ["x"], ["y"])])
    pair = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        "pair",
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N"]) for name in ("a", "b")],
        [helper.make_tensor_value_info("sum", TensorProto.DOUBLE, ["N"])],
    )
    _write(folder / "pair.onnx", pair)
    inputs, labels = load_iris(return_X_y=True)
    joblib.dump(LogisticRegression(max_iter=1000).fit(inputs, labels), folder / "iris.joblib")
    joblib.dump({"not": "a model"}, folder / "dict.joblib")
    (folder / "broken.onnx").write_bytes(b"this is no model")
    return folder


def _save(path: Path, datatype: str, shape: list[int | str], nodes: list[onnx.NodeProto]) -> None:
    kind = getattr(TensorProto, datatype)
    x, y = (helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y"))
    _write(path, helper.make_graph(nodes, "graph", [x], [y]))


def _write(path: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def onnx_server(weights: Path) -> Iterator[Berth]:
    """y = 2x for float32 [N, 2], by V2 and natively."""
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx"), MODEL_NAME="double", MODEL_VERSION="3") as server:
        yield server


@pytest.fixture(scope="session")
def typed_server() -> Iterator[Berth]:
    """models.Typed."""
    with serving(**predictor("Typed", MODEL_NAME="typed", MODEL_DESCRIPTION="One of every <kind>.")) as server:
        yield server
