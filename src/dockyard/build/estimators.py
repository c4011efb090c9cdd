"""What a pickle of scikit-learn says of its estimator: class, features, classes. Nothing of it is made.

`pickles` follows the opcodes and hands over what the pickle would make: names with their states. A pipeline takes what
its first step takes and answers with its last one; a search answers with its best estimator. Called by `pickles`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_NESTED_LIMIT = 20
_DATATYPES = {"b1": "BOOL", "i4": "INT32", "i8": "INT64", "f4": "FP32", "f8": "FP64"}


class Made:
    """A class or function by its name, or what would be made by calling it; `arguments` becomes its state."""

    def __init__(self, name: str, arguments: Any = ()) -> None:
        self.name = name
        self.arguments = arguments


@dataclass(frozen=True)
class Estimator:
    """A class by its full name; numbers of features and classes (0: not said), and the datatype of its labels."""

    name: str
    features: int = 0
    classes: int = 0
    label: str = ""


def estimator_of(value: Any) -> Estimator | None:
    """The estimator that a pickle would make; None when it is something else."""
    if not isinstance(value, Made) or not isinstance(value.arguments, dict):
        return None
    if "_sklearn_version" not in value.arguments:
        return None
    classes, label = _classes(_found(value, "classes_", -1))
    features = _found(value, "n_features_in_", 0)
    return Estimator(value.name, features if isinstance(features, int) else 0, classes, label)


def _found(value: Any, name: str, step: int, depth: int = 0) -> Any:
    """An attribute of an estimator; else of what it hands the work to."""
    state = value.arguments if isinstance(value, Made) else None
    if not isinstance(state, dict) or depth > _NESTED_LIMIT:
        return None
    if name in state:
        return state[name]
    if "best_estimator_" in state:
        return _found(state["best_estimator_"], name, step, depth + 1)
    steps = state.get("steps")
    if isinstance(steps, list) and steps and isinstance(steps[step], tuple) and len(steps[step]) == 2:
        return _found(steps[step][1], name, step, depth + 1)
    return None


def _classes(array: Any) -> tuple[int, str]:
    """How many labels an array has, and their datatype; the ways in which numpy and joblib write one."""
    arguments = array.arguments if isinstance(array, Made) else None
    if isinstance(arguments, dict):
        shape, kind = arguments.get("shape"), arguments.get("dtype")
    elif isinstance(arguments, tuple) and len(arguments) > 2:
        kind, shape = arguments[1:3]
    else:
        return 0, ""
    if not (isinstance(shape, tuple) and len(shape) == 1 and isinstance(shape[0], int)):
        return 0, ""
    if not (isinstance(kind, Made) and isinstance(kind.arguments, tuple) and kind.arguments):
        return shape[0], ""
    code = str(kind.arguments[0]).lstrip("<>|=")
    return shape[0], "BYTES" if code[:1] in "USO" else _DATATYPES.get(code, "")
