"""The four models that every peer serves: exported once for a run, each with one question and its expected answer.

tiny is an iris network (4-8-3), medium one of 64-512-512-10, tensor takes 1x3x224x224 and does little with it, python
computes for 20 ms in pure Python. Each takes a float32 `X` and answers a float32 `Y`. Called by `compare`.
"""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier

from benchmarks.serving.workload import graph, pure

Floats = NDArray[np.float32]
PYTHON_SECONDS = 0.020


@dataclass(frozen=True, eq=False)
class Model:
    """One model in `folder`, one row to ask it, and what it answers."""

    name: str
    title: str
    folder: Path
    question: Floats
    answer: Floats
    workers: int = 1
    seconds: float = 0.0  # that an answer computes, where that matters


TITLES: Mapping[str, str] = {
    "tiny": "tiny: iris network 4-8-3",
    "medium": "medium: network 64-512-512-10",
    "tensor": "tensor-heavy: 1x3x224x224 float32, a mean and a small layer",
    "python": "20 ms of pure Python, two workers",
}


def export(names: Sequence[str], folder: Path) -> list[Model]:
    """Write the models into the folder, and compute what each answers."""
    return [_MAKERS[name](name, folder) for name in names]


def _tiny(name: str, folder: Path) -> Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs, labels = load_iris(return_X_y=True)
        trained = MLPClassifier((8,), max_iter=500, random_state=0).fit(inputs.astype(np.float32), labels)
    layers = [
        (w.astype(np.float32), b.astype(np.float32)) for w, b in zip(trained.coefs_, trained.intercepts_, strict=True)
    ]
    _save(folder / f"{name}.onnx", (4,), layers)
    return _asked(name, folder, np.array([[5.1, 3.5, 1.4, 0.2]], np.float32))


def _medium(name: str, folder: Path) -> Model:
    generator = np.random.default_rng(1)
    _save(folder / f"{name}.onnx", (64,), _random_layers(generator, (64, 512, 512, 10)))
    return _asked(name, folder, generator.random((1, 64), np.float32))


def _tensor(name: str, folder: Path) -> Model:
    generator = np.random.default_rng(2)
    _save(folder / f"{name}.onnx", (3, 224, 224), _random_layers(generator, (3, 10)))
    return _asked(name, folder, generator.random((1, 3, 224, 224), np.float32))


def _python(name: str, folder: Path) -> Model:
    rounds = 10_000
    took = min(_seconds(rounds) for _ in range(10))
    (folder / "python.json").write_text(json.dumps({"rounds": round(rounds * PYTHON_SECONDS / took)}))
    question = np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)
    return Model(name, TITLES[name], folder, question, pure.load(name, folder)(question), 2, PYTHON_SECONDS)


_MAKERS: Mapping[str, Callable[[str, Path], Model]] = {
    "tiny": _tiny,
    "medium": _medium,
    "tensor": _tensor,
    "python": _python,
}


def _seconds(rounds: int) -> float:
    began = time.perf_counter()
    pure.burn(1.0, rounds)
    return time.perf_counter() - began


def _asked(name: str, folder: Path, question: Floats) -> Model:
    return Model(name, TITLES[name], folder, question, graph.load(name, folder)(question))


def _random_layers(generator: np.random.Generator, sizes: Sequence[int]) -> list[tuple[Floats, Floats]]:
    pairs = itertools.pairwise(sizes)
    return [(generator.normal(0, a**-0.5, (a, b)).astype(np.float32), np.zeros(b, np.float32)) for a, b in pairs]


def _save(path: Path, shape: tuple[int, ...], layers: Sequence[tuple[Floats, Floats]]) -> None:
    """These layers with ReLU between and softmax at the end; a mean over planes before, if `shape` has any."""
    nodes: list[Any] = []
    last = "X"
    if len(shape) > 1:
        nodes += [
            helper.make_node("GlobalAveragePool", ["X"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
        ]
        last = "flat"
    weights: list[Any] = []
    for index, (matrix, bias) in enumerate(layers):
        weights += [numpy_helper.from_array(matrix, f"w{index}"), numpy_helper.from_array(bias, f"b{index}")]
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], [f"z{index}"]))
        final = index == len(layers) - 1
        last = "Y" if final else f"h{index}"
        nodes.append(helper.make_node("Softmax" if final else "Relu", [f"z{index}"], [last]))
    drawn = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["N", layers[-1][1].size])],
        weights,
    )
    onnx.save(helper.make_model(drawn, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
