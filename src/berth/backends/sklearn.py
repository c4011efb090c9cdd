"""scikit-learn estimators and pipelines, loaded with joblib (a pickle: load only files that you made).

A classifier answers `label` and, where it can, `probabilities`; a regressor or clusterer answers `prediction`; a
transformer answers `transformed`. Options: `methods`, a list of the methods to answer with, and `dtype` of the input
("float64" by default, "float32", "int64" or "object" for text columns). Found by name through backends/base.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import sklearn.exceptions
import threadpoolctl  # type: ignore[import-untyped]

from berth.backends.base import Options
from berth.errors import InputError, ModelError
from berth.tensors import DATATYPES, Array, TensorSpec

_OUTPUTS = {
    "predict": "prediction",
    "predict_proba": "probabilities",
    "decision_function": "decision",
    "transform": "transformed",
}
_DTYPES = ("float64", "float32", "int64", "object")


class SklearnBackend:
    """One fitted estimator: rows of features in, one array per method out."""

    platform = "sklearn_joblib"
    joins_rows = True

    def __init__(self, estimator: Any, methods: list[str], dtype: str) -> None:
        features = getattr(estimator, "n_features_in_", None)
        self.inputs = [TensorSpec("input", DATATYPES[np.dtype(dtype)], (-1, -1 if features is None else int(features)))]
        self._calls = {_output_name(estimator, method): getattr(estimator, method) for method in methods}
        row = np.zeros((1, features or 1), dtype=dtype)
        self.outputs = [_probe(call, name, row) for name, call in self._calls.items()]

    def infer(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Call every method once on all rows."""
        rows = arrays["input"]
        if len(rows) == 0:
            raise InputError("input 'input': expected at least one row, got none")
        return {
            spec.name: np.asarray(self._calls[spec.name](rows)).astype(spec.dtype, copy=False) for spec in self.outputs
        }


def load(path: Path, options: Options) -> SklearnBackend:
    """Load the estimator; ModelError when the file, its version or the options do not fit."""
    settings = options.only("methods", "dtype")
    estimator = _read(path)
    dtype = settings.get("dtype", "float64")
    if dtype not in _DTYPES:
        raise ModelError(f"BERTH_OPTIONS: dtype: expected one of {', '.join(_DTYPES)}, got {dtype!r}")
    methods = settings.get("methods") or _usual_methods(estimator)
    for method in methods:
        if method not in _OUTPUTS or not hasattr(estimator, method):
            raise ModelError(f"BERTH_OPTIONS: methods: {type(estimator).__name__} has no {method!r} to answer with")
    # Rows arrive without column names; the estimator's own warning about that would repeat at every request.
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    threadpoolctl.threadpool_limits(options.threads)
    return SklearnBackend(estimator, methods, dtype)


def _read(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", sklearn.exceptions.InconsistentVersionWarning)
        try:
            estimator = joblib.load(path)
        except sklearn.exceptions.InconsistentVersionWarning as error:
            raise ModelError(
                f"{path}: saved with scikit-learn {error.original_sklearn_version}, running "
                f"{error.current_sklearn_version}; pin scikit-learn=={error.original_sklearn_version}"
            ) from error
        except Exception as error:
            raise ModelError(f"{path}: joblib cannot load it: {type(error).__name__}: {error}") from error
    if not any(hasattr(estimator, method) for method in _OUTPUTS):
        raise ModelError(f"{path}: holds a {type(estimator).__name__}, not a fitted scikit-learn estimator")
    return estimator


def _usual_methods(estimator: Any) -> list[str]:
    if hasattr(estimator, "predict"):
        return ["predict", "predict_proba"] if hasattr(estimator, "predict_proba") else ["predict"]
    return ["transform"]


def _output_name(estimator: Any, method: str) -> str:
    if method == "predict" and hasattr(estimator, "classes_"):
        return "label"
    return _OUTPUTS[method]


def _probe(call: Any, name: str, row: Array) -> TensorSpec:
    """The tensor that a method answers, learned from one row of zeros (which also warms the estimator up)."""
    try:
        answer = np.asarray(call(row))
    except Exception as error:
        raise ModelError(
            f"the estimator cannot answer one row of zeros ({type(error).__name__}: {error}); "
            "set BERTH_OPTIONS dtype, or write a predictor for inputs of another kind"
        ) from error
    dtype = np.dtype(object) if answer.dtype.kind in "USO" else answer.dtype
    if dtype not in DATATYPES or answer.shape[:1] != (1,):
        raise ModelError(f"{name}: an answer of dtype {answer.dtype} and shape {answer.shape} cannot travel")
    return TensorSpec(name, DATATYPES[dtype], (-1, *answer.shape[1:]))
