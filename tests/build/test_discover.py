"""`dockyard init` finds out what it can: class, model file, requirements with the versions that fit."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import joblib
from sklearn.linear_model import LogisticRegression

from dockyard.build.discover import discover


def test_an_onnx_file_alone_needs_no_code(tmp_path: Path) -> None:
    folder = tmp_path / "My Model"
    folder.mkdir()
    (folder / "net.onnx").write_bytes(b"")
    found = discover(folder)
    assert (found.name, found.format, found.weights) == ("my-model", "onnx", ("net.onnx",))
    assert found.requirements == (f"onnxruntime=={version('onnxruntime')}",)


def test_a_scikit_learn_pickle_tells_the_version_that_wrote_it(tmp_path: Path) -> None:
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    joblib.dump(model, tmp_path / "model.joblib")
    found = discover(tmp_path)
    assert found.format == "sklearn"
    assert f"scikit-learn=={version('scikit-learn')}" in found.requirements


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "loaded"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.system, (f"touch {marker}",)

    joblib.dump(Evil(), tmp_path / "model.pkl")
    assert discover(tmp_path).format == "sklearn"
    assert not marker.exists()


def test_the_class_with_predict_is_found_and_its_imports_become_requirements(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("class Trainer:\n    def predict(self): ...\n")
    (tmp_path / "helper.py").write_text("import PIL.Image\n")
    (tmp_path / "service.py").write_text(
        "import json, numpy as np\nfrom helper import x\nfrom berth import Meta\nimport some_unknown_thing\n"
        "class Data: ...\nclass Service:\n    def predict(self, a: int) -> int: ...\n"
    )
    found = discover(tmp_path)
    assert found.predictor == "service:Service"
    assert found.requirements == (f"numpy=={version('numpy')}", f"pillow=={version('pillow')}", "some_unknown_thing")


def test_a_requirements_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "predictor.py").write_text("class P:\n    def predict(self) -> int: ...\n")
    assert discover(tmp_path).requirements == "requirements.txt"


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    found = discover(tmp_path)
    assert (found.predictor, found.format, found.weights, found.requirements) == ("", "", (), "")


def test_a_predictor_beside_a_pickle_also_gets_what_reads_the_pickle(tmp_path: Path) -> None:
    joblib.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), tmp_path / "model.joblib")
    (tmp_path / "predictor.py").write_text("import joblib\nclass P:\n    def predict(self, a: float) -> int: ...\n")
    found = discover(tmp_path)
    assert found.requirements == (f"joblib=={version('joblib')}", f"scikit-learn=={version('scikit-learn')}")
    assert found.weights == ("model.joblib",)
