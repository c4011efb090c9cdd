"""What is told of a pickle, and which files are pickles.

Apart from `pickles`, which reads them: its imports take every build longer than this one, and few builds read a pickle
that was not read before. Called by both and by `contents_check`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dockyard.build.estimators import Estimator

SUFFIXES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".dill")
FACTS = 2
"""The edition of PickleFacts: what an older one said is not all that is asked now."""


@dataclass(frozen=True)
class PickleFacts:
    """The top-level packages whose classes and functions a pickle names, the versions of scikit-learn that wrote its
    parts, whether all of it was read, and the estimator that it holds.
    """

    packages: tuple[str, ...] = ()
    sklearn: tuple[str, ...] = ()
    whole: bool = True
    estimator: Estimator | None = None


def is_pickle(name: str) -> bool:
    """Whether a file of weights is one, by its name."""
    return name.lower().endswith(SUFFIXES)
