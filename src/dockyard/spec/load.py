"""Reads dockyard.toml, deployment files and policies: the only place that turns those files into values of `spec`.

Called by every verb that works on a project, by `dockyard deploy`, and by the yard's API for what it is sent. Each
mistake is a ProjectError, DeploymentError or PolicyFileError that names the file, the path of the key, and the mend.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dockyard.errors import DeploymentError, DockyardError, PolicyFileError, ProjectError
from dockyard.spec.deployment import LOCAL_DOMAIN, Deployment, StrategyKind
from dockyard.spec.policy import Policy
from dockyard.spec.project import CLASS_REFERENCE, AnyModel, Project

FILE_NAME = "dockyard.toml"
DEPLOYMENT_FILE_NAME = "deployment.toml"
_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`(?: - at `\$\.?(?P<path>[^`]*)`)?")
_WRONG = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_NAME_A_FILE = "Name a deployment file; its keys are in docs/reference/deployment.md."
_NEEDED = {
    "Project": "Every project needs [model] with a name.",
    "Deployment": "Every deployment needs name and image.",
}


@dataclass(frozen=True)
class ProjectFolder:
    """A project where it lies: its folder (absolute) and what its dockyard.toml says."""

    path: Path
    project: Project


def load_project(folder: Path) -> ProjectFolder:
    """The project in `folder`; ProjectError if dockyard.toml is missing or wrong."""
    path = folder.absolute()
    file = path / FILE_NAME
    missing = "Run `dockyard init` in the folder of your model to write one."
    return ProjectFolder(path, _project(_text(file, ProjectError, missing), str(file)))


@functools.lru_cache(4)
def _project(text: str, source: str) -> Project:
    """A project's file, which a process that stays reads again and again."""
    return parse_project(_toml(text, source, ProjectError), source)


def load_deployment(file: Path, given: Mapping[str, Any] | None = None) -> Deployment:
    """The deployment that a TOML file asks for, with `given` keys (those of options) on top of it.

    `image` may be left out of the file if `given` has it. DeploymentError if the file is missing or wrong.
    """
    data = _read(file, DeploymentError, _NAME_A_FILE)
    return parse_deployment(merged(data, given or {}), str(file))


def load_policy(file: Path, *, required: bool = False) -> Policy:
    """The policy in a TOML file; the default where there is none and none is `required`. Else PolicyFileError."""
    if not required and not file.exists() and not file.is_symlink():
        return Policy()
    data = _read(file, PolicyFileError, "Put it there: the yard was told of it, or has deployed by it before.")
    try:
        policy = msgspec.convert(data, Policy)
    except msgspec.ValidationError as error:
        raise explained(str(error), data, Policy, str(file), PolicyFileError) from error
    for index, exception in enumerate(policy.exceptions):
        if bool(exception.deployment) == bool(exception.image):
            raise PolicyFileError(
                f"{file}: exceptions[{index}] must name either a deployment or an image",
                remedy='Write deployment = "NAME" or image = "sha256:...".',
            )
    return policy


def keys_of(file: Path) -> frozenset[str]:
    """The keys at the top of a deployment file; DeploymentError if it is missing or no TOML."""
    return frozenset(_read(file, DeploymentError, _NAME_A_FILE))


def parse_deployment(data: dict[str, Any], source: str) -> Deployment:
    """`data` as a validated Deployment; `source` names the file in errors."""
    try:
        deployment = msgspec.convert(data, Deployment)
    except msgspec.ValidationError as error:
        raise explained(str(error), data, Deployment, source, DeploymentError) from error
    check_deployment(deployment, source)
    return deployment


def check_deployment(deployment: Deployment, source: str) -> None:
    """What the types alone do not say: keys that do not go together. DeploymentError names them."""
    strategy, server = deployment.strategy, deployment.server
    if strategy.kind is StrategyKind.ROLLING and not strategy.max_surge and not strategy.max_unavailable:
        raise DeploymentError(
            f"{source}: strategy.max_surge and strategy.max_unavailable are both 0, so no replica could be replaced",
            remedy="Leave one of them out, or make it 1.",
        )
    if strategy.preview and strategy.kind is not StrategyKind.BLUE_GREEN:
        raise DeploymentError(
            f"{source}: strategy.preview is for blue-green rollouts, and strategy.kind is {str(strategy.kind)!r}",
            remedy='Write kind = "blue-green", or leave preview out.',
        )
    if server.command and not (server.port or server.preset):
        raise DeploymentError(
            f"{source}: server.command is there without server.port or server.preset",
            remedy="Say on which port the command listens: server.port.",
        )
    for name, path in deployment.secrets.items():
        if not path.startswith("/"):
            raise DeploymentError(
                f"{source}: secrets.{name} is {path!r}, which is no absolute path",
                remedy="Name the secret's file on the yard's host by its whole path.",
            )
    _check_hosts(deployment, source)
    _check_targets(deployment, source)


def _check_hosts(deployment: Deployment, source: str) -> None:
    hosts = deployment.routing.hosts
    for index, host in enumerate(hosts):
        if host in hosts[:index]:
            raise DeploymentError(f"{source}: routing.hosts[{index}] {host!r} is there twice", remedy="Name it once.")
        if host.split(".")[-1] == LOCAL_DOMAIN:
            raise DeploymentError(
                f"{source}: routing.hosts[{index}] is {host!r}, and {LOCAL_DOMAIN} is the gateway's own",
                remedy=f"Leave it out: {deployment.name}.{LOCAL_DOMAIN} is served anyway.",
            )


def _check_targets(deployment: Deployment, source: str) -> None:
    seen: set[str] = set()
    for index, mount in enumerate(deployment.mounts):
        for key, path in (("source", mount.source), ("target", mount.target)):
            if ".." in path.split("/"):
                raise DeploymentError(
                    f"{source}: mounts[{index}].{key} is {path!r}", remedy="Write the path without `..`."
                )
        if mount.target in seen:
            raise DeploymentError(
                f"{source}: mounts[{index}].target {mount.target!r} is that of another mount",
                remedy="Give each mount a target of its own.",
            )
        seen.add(mount.target)


def merged(data: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` on top of `data`, table by table."""
    both = dict(data)
    for key, value in given.items():
        below = both.get(key)
        both[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return both


def _read(file: Path, kind: type[DockyardError], missing: str) -> dict[str, Any]:
    return _toml(_text(file, kind, missing), str(file), kind)


def _text(file: Path, kind: type[DockyardError], missing: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise kind(f"{file} does not exist", remedy=missing) from error
    except UnicodeDecodeError as error:
        raise _no_toml(error, str(file), kind) from error
    except OSError as error:
        raise kind(f"{file} cannot be read: {error.strerror}") from error


def _toml(text: str, source: str, kind: type[DockyardError]) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _no_toml(error, source, kind) from error


def _no_toml(error: ValueError, source: str, kind: type[DockyardError]) -> DockyardError:
    return kind(f"{source} is not valid TOML: {error}", remedy="Correct that line.")


def parse_project(data: dict[str, Any], source: str) -> Project:
    """`data` as a validated Project; `source` names the file in errors."""
    try:
        project = msgspec.convert(data, Project)
    except msgspec.ValidationError as error:
        raise explained(str(error), data, Project, source, ProjectError) from error
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


def explained(
    message: str, data: Any, kind: type[msgspec.Struct], source: str, error: type[DockyardError]
) -> DockyardError:
    """msgspec's message about `data`, which is no `kind`, as an error that says the key's path as a user writes it."""
    unknown = _UNKNOWN.search(message)
    if unknown:
        table, key = unknown["path"] or "", unknown["key"]
        path = f"{table}.{key}" if table else key
        known = _fields_at(kind, table)
        near = difflib.get_close_matches(key, known, n=1)
        where = f"[{table}]" if table else source if source.startswith("the ") else "the file"
        remedy = f"Did you mean `{near[0]}`?" if near else f"{where} may have: {', '.join(known) or 'nothing'}."
        return error(f"{source}: unknown key `{path}`", remedy=remedy)
    wrong = _WRONG.match(message)
    assert wrong is not None
    path, what = wrong["path"] or "", wrong["what"]
    if missing := re.search(r"missing required field `([^`]*)`", what):
        path = f"{path}.{missing[1]}" if path else missing[1]
        return error(f"{source}: `{path}` is missing", remedy=_NEEDED.get(kind.__name__, ""))
    what = what[0].lower() + what[1:]
    where = f": `{path}`" if path else ""
    return error(f"{source}{where}: {what}", remedy=f"It is {_found(data, path)!r} now.")


def _fields_at(kind: type[msgspec.Struct], path: str) -> tuple[str, ...]:
    """The keys of the table at a dotted path below `kind`; none where there is no such table."""
    for part in re.findall(r"[^.\[\]]+", path):
        if part == "..." or part.isdigit():
            continue
        hint = typing.get_type_hints(kind).get(part)
        inside = next((one for one in (hint, *typing.get_args(hint)) if _is_struct(one)), None)
        if inside is None:
            return ()
        kind = inside
    return kind.__struct_fields__


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


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
