"""What a backend has to offer, and how one is found by its name.

A backend file defines `load(path, options)`; what that returns names its tensors and has `infer(arrays) -> arrays`.
Everything else (JSON, V2, batching, errors, metrics) is derived. model.py calls this.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

import berth.backends as package
from berth.errors import ModelError
from berth.tensors import Array, TensorSpec


class Options(msgspec.Struct, frozen=True):
    """What the user set for a backend: threads for one inference, and the backend's own settings."""

    threads: int
    settings: Mapping[str, Any]

    def only(self, *known: str) -> Mapping[str, Any]:
        """The settings, after refusing any that this backend does not know."""
        unknown = sorted(set(self.settings) - set(known))
        if unknown:
            allowed = ", ".join(known) or "none"
            raise ModelError(f"BERTH_OPTIONS: unknown option {unknown[0]!r}; this backend knows: {allowed}")
        return self.settings


class Backend(Protocol):
    """A loaded model: its tensors, whether rows of several requests may be joined, and one call."""

    platform: str
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    joins_rows: bool

    def infer(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; the arrays have the dtypes and shapes that `inputs` promises."""


class _BackendModule(Protocol):
    def load(self, path: Path, options: Options) -> Backend: ...


def load_backend(name: str, path: Path, options: Options) -> Backend:
    """Load a file with the backend of this name; ModelError says what is missing."""
    known = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base")
    if name not in known:
        raise ModelError(f"BERTH_FORMAT: no backend {name!r}; there are: {', '.join(known)}")
    if not path.exists():
        raise ModelError(f"BERTH_WEIGHTS: no such file: {path}")
    try:
        module = importlib.import_module(f"berth.backends.{name}")
    except ModuleNotFoundError as error:
        raise ModelError(f"backend {name!r} needs the package {error.name!r}: add it to the requirements") from error
    return cast(_BackendModule, module).load(path, options)
