"""What a build reads off models' files of their inputs and outputs, and what `dockyard diff` then tells of them."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import onnxruntime
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dockyard.build.estimators import Estimator
from dockyard.build.onnx_header import read_onnx
from dockyard.build.pickles import read_pickle
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.spec.labels import MODEL_SIGNATURE
from dockyard.spec.signature import Tensor, decode
from tests.support.projects import CommandLine, build_in, write_adder
from tests.support.wheels import write_wheel

INT, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def network(kind: int = FLOAT, width: int = 4, name: str = "x", *, weights: int = 4) -> Any:
    """Adds a weight, which is an input with a value of its own, as old exporters write it."""
    nodes = [helper.make_node("Add", [name, "w"], ["sum"])]
    inputs = [
        helper.make_tensor_value_info(name, kind, ["rows", width]),
        helper.make_tensor_value_info("w", kind, [weights]),
    ]
    outputs = [helper.make_tensor_value_info("sum", kind, [None, width])]
    value = numpy_helper.from_array(np.zeros(weights, helper.tensor_dtype_to_np_dtype(kind)), "w")
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [value])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_an_onnx_file_says_what_onnxruntime_says(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    onnx.save(network(), file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    inputs, outputs = read_onnx(file)
    assert [one.name for one in inputs] == [one.name for one in session.get_inputs()] == ["x"]
    assert inputs == (Tensor("x", "FP32", (-1, 4)),)
    assert outputs == (Tensor("sum", "FP32", (-1, 4)),)
    assert str(outputs[0]) == "FP32[-1, 4]"


def test_a_scalar_and_text_and_large_weights(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    value = helper.make_tensor_value_info("said", TensorProto.STRING, [])
    graph = helper.make_graph([helper.make_node("Identity", ["said"], ["again"])], "g", [value], [
        helper.make_tensor_value_info("again", TensorProto.STRING, [])
    ])  # fmt: skip
    onnx.save(helper.make_model(graph), file)
    assert read_onnx(file) == ((Tensor("said", "BYTES"),), (Tensor("again", "BYTES"),))
    onnx.save(network(weights=4_000_000), file)
    assert file.stat().st_size > 16_000_000
    assert read_onnx(file)[0] == (Tensor("x", "FP32", (-1, 4)),)


WHOLE = network(INT).SerializeToString()


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255), st.integers(0, len(WHOLE)))
def test_a_damaged_file_is_refused_or_says_something(
    tmp_path_factory: pytest.TempPathFactory, place: int, bits: int, length: int
) -> None:
    data = bytearray(WHOLE)
    data[place] ^= bits
    file = tmp_path_factory.getbasetemp() / "damaged.onnx"
    file.write_bytes(data[:length])
    with contextlib.suppress(ValueError):
        read_onnx(file)


ROWS = np.random.default_rng(3).random((60, 3))
TEXTS, NUMBERS = ["a", "b"] * 30, [0, 1, 2] * 20


@pytest.mark.parametrize(
    ("estimator", "labels", "expected"),
    [
        (LogisticRegression(), NUMBERS, ("LogisticRegression", 3, 3, "INT64")),
        (LinearRegression(), NUMBERS, ("LinearRegression", 3, 0, "")),
        (KMeans(2), None, ("KMeans", 3, 0, "")),
        (RandomForestClassifier(3), TEXTS, ("RandomForestClassifier", 3, 2, "BYTES")),
        (make_pipeline(StandardScaler(), LogisticRegression()), TEXTS, ("Pipeline", 3, 2, "BYTES")),
        (make_pipeline("passthrough", LogisticRegression()), NUMBERS, ("Pipeline", 0, 3, "INT64")),
        (GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2), NUMBERS, ("GridSearchCV", 3, 3, "INT64")),
        (make_pipeline(*(StandardScaler() for _ in range(9)), KMeans(2)), None, ("Pipeline", 3, 0, "")),
    ],
    ids=lambda value: "",
)
def test_an_estimator_is_known_without_making_it(
    tmp_path: Path, estimator: Any, labels: Any, expected: tuple[str, int, int, str]
) -> None:
    estimator.fit(ROWS, labels)
    joblib.dump(estimator, tmp_path / "m.joblib")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(estimator))
    for name in ("m.joblib", "m.pkl"):
        found = read_pickle(tmp_path / name).estimator
        assert found is not None
        assert found == Estimator(found.name, *expected[1:])
        assert found.name.rpartition(".")[2] == expected[0]


def test_what_is_no_estimator_is_none(tmp_path: Path) -> None:
    for content in ({"a": [1, 2]}, [LogisticRegression()], 7, np.zeros(3)):
        joblib.dump(content, tmp_path / "m.joblib")
        assert read_pickle(tmp_path / "m.joblib").estimator is None


MANIFEST = """\
[model]
name = "{name}"
format = "{format}"
weights = "{file}"

[build]
requirements = ["{requirement}"]
"""


def test_the_difference_of_two_onnx_models_is_told(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(tmp_path / "wheels", "onnxruntime", "99.0", {"onnxruntime.py": ""})
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    manifest = MANIFEST.format(name="net", format="onnx", file="net.onnx", requirement="onnxruntime==99.0")
    folder = write_adder(tmp_path / "project", manifest)
    onnx.save(network(), folder / "net.onnx")
    build_in(folder, home, "net:one")
    onnx.save(network(INT, 5, "y", weights=1), folder / "net.onnx")
    build_in(folder, home, "net:two")
    difference = json.loads(CommandLine(home)("diff", "net:one", "net:two", "--json").stdout)
    told = {one["name"]: (one["before"], one["after"]) for one in difference["signature"]}
    assert told.pop("model file")  # by its digest
    assert told == {
        "input x": ("FP32[-1, 4]", ""),
        "input y": ("", "INT64[-1, 5]"),
        "output sum": ("FP32[-1, 4]", "INT64[-1, 5]"),
    }
    assert difference["labels"] == []
    assert "~ output sum  FP32[-1, 4] -> INT64[-1, 5]" in CommandLine(home)("diff", "net:one", "net:two").stdout


def test_the_difference_of_two_estimators_is_told(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    version = joblib_of(tmp_path, monkeypatch)
    manifest = MANIFEST.format(name="guess", format="sklearn", file="m.joblib", requirement=f"scikit-learn=={version}")
    folder = write_adder(tmp_path / "project", manifest)
    joblib.dump(LogisticRegression().fit(ROWS, NUMBERS), folder / "m.joblib")
    build_in(folder, home, "guess:one")
    joblib.dump(RandomForestClassifier(3).fit(ROWS[:, :2], TEXTS), folder / "m.joblib")
    build_in(folder, home, "guess:two")
    (signature,) = decode(Layout.open(home.images).resolve("guess:one").config.labels[MODEL_SIGNATURE])
    assert (signature.model, signature.inputs) == ("guess", (Tensor("input", "FP64", (-1, 3)),))
    difference = json.loads(CommandLine(home)("diff", "guess:one", "guess:two", "--json").stdout)
    told = {one["name"]: (one["before"], one["after"]) for one in difference["signature"]}
    assert told["input input"] == ("FP64[-1, 3]", "FP64[-1, 2]")
    assert told["output label"] == ("INT64[-1]", "BYTES[-1]")
    assert told["classes"] == ("3", "2")
    assert told["estimator"][1].endswith(".RandomForestClassifier")


def joblib_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Wheels with the names of scikit-learn's, without their weight; the version is the one that writes here."""
    for name, version in (("scikit_learn", sklearn.__version__), ("threadpoolctl", "99.0"), ("joblib", "99.0")):
        module = {"scikit_learn": "sklearn"}.get(name, name)
        write_wheel(tmp_path / "wheels", name, version, {f"{module}/__init__.py": ""})
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    return str(sklearn.__version__)
