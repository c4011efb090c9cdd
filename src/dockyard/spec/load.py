"""Reads dockyard.toml: the only place that turns that file into a `Project`.

Called by every verb that works on a project. Each mistake is a ProjectError that names the file, the path of the key,
and the mend.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dockyard.errors import ProjectError
from dockyard.spec.project import CLASS_REFERENCE, AnyModel, Build, FurtherModel, Model, Project, Run, Serve

FILE_NAME = "dockyard.toml"
_TABLES: dict[str, type[msgspec.Struct]] = {
    "": Project,
    "model": Model,
    "models": FurtherModel,
    "build": Build,
    "serve": Serve,
    "run": Run,
}
_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`(?: - at `\$\.?(?P<path>[^`]*)`)?")
_WRONG = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)


@dataclass(frozen=True)
class ProjectFolder:
    """A project where it lies: its folder (absolute) and what its dockyard.toml says."""

    path: Path
    project: Project


def load_project(folder: Path) -> ProjectFolder:
    """The project in `folder`; ProjectError if dockyard.toml is missing or wrong."""
    path = folder.absolute()
    file = path / FILE_NAME
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProjectError(
            f"{file} does not exist", remedy="Run `dockyard init` in the folder of your model to write one."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"{file} is not valid TOML: {error}", remedy="Correct that line.") from error
    except OSError as error:
        raise ProjectError(f"{file} cannot be read: {error.strerror}") from error
    return ProjectFolder(path, parse_project(data, str(file)))


def parse_project(data: dict[str, Any], source: str) -> Project:
    """`data` as a validated Project; `source` names the file in errors."""
    try:
        project = msgspec.convert(data, Project)
    except msgspec.ValidationError as error:
        raise _explained(str(error), data, source) from error
    _check_model(project.model, source, "model")
    _check_sizes(project.serve.batch_sizes, source, "serve")
    seen = {(project.model.name, project.model.version)}
    for index, model in enumerate(project.models):
        _check_model(model, source, f"models[{index}]")
        _check_sizes(model.batch_sizes, source, f"models[{index}]")
        if (model.name, model.version) in seen:
            raise ProjectError(
                f"{source}: models[{index}] has the name and version of another: {model.name!r}, {model.version!r}",
                remedy="Give it a name, or a version, of its own.",
            )
        seen.add((model.name, model.version))
    for name in project.environment:
        if name.startswith("BERTH_"):
            raise ProjectError(f"{source}: environment.{name} is berth's own", remedy="Set it in [serve] instead.")
    return project


def _check_sizes(sizes: tuple[int, ...] | None, source: str, where: str) -> None:
    if list(sizes or ()) != sorted(set(sizes or ())):
        raise ProjectError(
            f"{source}: {where}.batch_sizes is {list(sizes or ())}",
            remedy="Write each size once, the smallest first.",
        )


def _check_model(model: AnyModel, source: str, where: str) -> None:
    if bool(model.predictor) == bool(model.format):
        found = "both" if model.predictor else "neither"
        raise ProjectError(
            f"{source}: [{where}] must have either `predictor` or `format`, and has {found}",
            remedy='Write predictor = "module:Class" for your own code, or format = "onnx" with weights = "FILE".',
        )
    if model.predictor and not CLASS_REFERENCE.match(model.predictor):
        raise ProjectError(
            f"{source}: {where}.predictor is {model.predictor!r}, which does not name a class",
            remedy='Write it as "module:Class", such as "predictor:Flowers".',
        )
    if model.format and len(model.weight_patterns) != 1:
        raise ProjectError(
            f'{source}: {where}.format = "{model.format}" loads one file, and {where}.weights names '
            f"{len(model.weight_patterns)}",
            remedy='Write weights = "FILE", relative to the project.',
        )


def _explained(message: str, data: dict[str, Any], source: str) -> ProjectError:
    """msgspec's message as an error that says the key's path the way a user writes it."""
    unknown = _UNKNOWN.search(message)
    if unknown:
        table, key = unknown["path"] or "", unknown["key"]
        path = f"{table}.{key}" if table else key
        kind = re.sub(r"\[\d+\]$", "", table)
        known = _TABLES[kind].__struct_fields__ if kind in _TABLES else ()
        near = difflib.get_close_matches(key, known, n=1)
        where = f"[{table}]" if table else "the file"
        remedy = f"Did you mean `{near[0]}`?" if near else f"{where} may have: {', '.join(known)}."
        return ProjectError(f"{source}: unknown key `{path}`", remedy=remedy)
    wrong = _WRONG.match(message)
    assert wrong is not None
    path, what = wrong["path"] or "", wrong["what"]
    if missing := re.search(r"missing required field `([^`]*)`", what):
        path = f"{path}.{missing[1]}" if path else missing[1]
        return ProjectError(f"{source}: `{path}` is missing", remedy="Every project needs [model] with a name.")
    what = what[0].lower() + what[1:]
    return ProjectError(f"{source}: `{path}`: {what}", remedy=f"It is {_found(data, path)!r} now.")


def _found(data: Any, path: str) -> Any:
    """The value at a dotted path, as far as it can be followed."""
    for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        else:
            break
    return data
