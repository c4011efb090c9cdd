"""Finds out what a folder holds, so that `dockyard init` need not ask: predictor, model file, requirements.

Source code is parsed and never run; a pickle is searched for a version and never loaded. Called by `cli.init`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

_FORMATS = {".onnx": "onnx", ".joblib": "sklearn", ".pkl": "sklearn", ".pickle": "sklearn"}
_FORMAT_REQUIREMENTS = {"onnx": ("onnxruntime",), "sklearn": ("scikit-learn", "joblib")}
_SKLEARN_VERSION = re.compile(rb"_sklearn_version.{0,24}?(\d+\.\d+(?:\.\d+)?)", re.DOTALL)
_SEARCHED = 64 << 20
_IGNORED = ("train", "test", "setup", "conftest", "export")


@dataclass(frozen=True)
class Discovery:
    """What a folder holds. `predictor` is `module:Class` or empty; `weights` are names relative to the folder.

    Several model files without a predictor are several models: `further` are those after the first.
    """

    name: str
    predictor: str
    format: str
    weights: tuple[str, ...]
    requirements: tuple[str, ...] | str
    further: tuple[FurtherFile, ...] = ()


@dataclass(frozen=True)
class FurtherFile:
    """A model file of its own: the model's name, its format, the file's name."""

    name: str
    format: str
    weights: str


def discover(folder: Path) -> Discovery:
    """Look through the top of `folder`; what cannot be found out stays empty."""
    name = _name_of(folder.resolve().name)
    models = sorted(path.name for path in folder.iterdir() if path.suffix in _FORMATS and path.is_file())
    module = _predictor(folder)
    file = next((one for one in ("requirements.txt", "pyproject.toml") if (folder / one).is_file()), "")
    if module is not None:
        found = file or _with_pickles(_of_imports(module, folder), folder, models)
        return Discovery(name, f"{module.path.stem}:{module.name}", "", tuple(models), found)
    if not models:
        return Discovery(name, "", "", (), file)
    kinds = [_FORMATS[Path(model).suffix] for model in models]
    needed = {one for kind, model in zip(kinds, models, strict=True) for one in _of_format(kind, folder / model)}
    further = tuple(
        FurtherFile(_name_of(Path(model).stem), kind, model) for model, kind in zip(models[1:], kinds[1:], strict=True)
    )
    return Discovery(name, "", kinds[0], (models[0],), file or tuple(sorted(needed)), further)


def _name_of(text: str) -> str:
    """A text as the name of a model."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "model"


@dataclass(frozen=True)
class _Predictor:
    path: Path
    name: str
    tree: ast.Module


def _predictor(folder: Path) -> _Predictor | None:
    """The first class with a `predict` method in the folder's modules; `predictor.py` is looked at first."""
    files = sorted(folder.glob("*.py"), key=lambda path: (path.stem not in {"predictor", "predict"}, path.name))
    for path in files:
        if path.stem.startswith(_IGNORED) or not path.stem.isidentifier():
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and "predict" in _methods(node):
                return _Predictor(path, node.name, tree)
    return None


def _methods(node: ast.ClassDef) -> set[str]:
    return {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}


def _of_imports(predictor: _Predictor, folder: Path) -> tuple[str, ...]:
    """Requirements for what the predictor and the folder's own modules that it imports import, pinned if installed."""
    seen: set[Path] = set()
    waiting = [(predictor.path, predictor.tree)]
    names: set[str] = set()
    while waiting:
        path, tree = waiting.pop()
        seen.add(path)
        for name in _imports(tree):
            own = folder / f"{name}.py"
            if own.is_file() and own not in seen:
                seen.add(own)
                with suppress(SyntaxError, ValueError):
                    waiting.append((own, ast.parse(own.read_bytes())))
            elif not own.is_file() and not (folder / name).is_dir():
                names.add(name)
    return _pinned(sorted(names - set(sys.stdlib_module_names) - {"berth"}))


def _with_pickles(found: tuple[str, ...], folder: Path, models: Sequence[str]) -> tuple[str, ...]:
    """The requirements with what pickled models need to be read, which no import tells."""
    names = {re.split(r"[=<>!~ \[]", requirement)[0] for requirement in found}
    for model in models:
        needed = _of_format(_FORMATS[Path(model).suffix], folder / model) if not model.endswith(".onnx") else ()
        if any("==" in requirement for requirement in needed):
            found += tuple(one for one in needed if re.split("==", one)[0] not in names)
            names |= {re.split("==", one)[0] for one in needed}
    return tuple(sorted(found))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _pinned(modules: Sequence[str]) -> tuple[str, ...]:
    installed: Mapping[str, list[str]] = packages_distributions()
    known = {"sklearn": "scikit-learn", "PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml"}
    found = {installed[module][0] if module in installed else known.get(module, module) for module in modules}
    return tuple(sorted(_with_version(name) for name in found))


def _with_version(name: str) -> str:
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        return name


def _of_format(kind: str, file: Path) -> tuple[str, ...]:
    """What the backend needs; scikit-learn in the version that wrote the file, which is the one sure to read it."""
    first, *others = _FORMAT_REQUIREMENTS[kind]
    if kind == "sklearn":
        with file.open("rb") as stream:
            written_by = _SKLEARN_VERSION.search(stream.read(_SEARCHED))
        if written_by:
            return (f"{first}=={written_by[1].decode()}", *others)
    return (_with_version(first), *others)
