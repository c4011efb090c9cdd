"""What callers see of the model in an image: its signature and its goldens, read off the files. Nothing is executed.

The signature of a predictor is the annotations of its `predict`; of a model that a format loads, what the build read
off its file (and wrote into a label), and the file itself. `compare` tells with it whether callers must change. Pure.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dockyard.oci.digest import digest_of
from dockyard.oci.image import ImageConfig
from dockyard.spec.labels import MODEL_SIGNATURE
from dockyard.spec.signature import decode

FILE_LIMIT = 1 << 20  # bytes of one source or golden; larger ones are compared by digest alone


@dataclass(frozen=True)
class Face:
    """By name: each input and output (`predict(left)`, `predict -> `), each golden's inputs, its expected outputs."""

    signature: Mapping[str, str]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def face_of(config: ImageConfig, files: Mapping[str, bytes]) -> Face:
    """The face of an image, from its configuration and the files that matter, by their paths in it."""
    variables = dict(entry.partition("=")[::2] for entry in config.environment)
    root = config.working_dir.strip("/")
    signature = dict(_signatures(variables, root, files)) | dict(_recorded(config.labels))
    folder = variables.get("BERTH_GOLDENS", "").strip("/")
    goldens = {
        path.removeprefix(f"{folder}/").removesuffix(".json"): _golden(data)
        for path, data in files.items()
        if folder and path.startswith(f"{folder}/") and path.endswith(".json")
    }
    return Face(
        signature,
        {name: inputs for name, (inputs, _) in goldens.items()},
        {name: outputs for name, (_, outputs) in goldens.items()},
    )


def _recorded(labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What the build read off the files of models that a format loads."""
    signatures = decode(labels.get(MODEL_SIGNATURE, ""))
    for one in signatures:
        prefix = f"{one.model}: " if len(signatures) > 1 else ""
        yield from ((f"{prefix}input {tensor.name}", str(tensor)) for tensor in one.inputs)
        yield from ((f"{prefix}output {tensor.name}", str(tensor)) for tensor in one.outputs)
        if one.estimator:
            yield f"{prefix}estimator", one.estimator
        if one.classes:
            yield f"{prefix}classes", str(one.classes)


def _golden(data: bytes) -> tuple[str, str]:
    """What a golden asks (with its tolerance), and what it expects; digests of the file when it is none."""
    try:
        told = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return digest_of(data), digest_of(data)
    outputs = msgspec.json.encode(told.pop("outputs", None), order="sorted").decode()
    return msgspec.json.encode(told, order="sorted").decode(), outputs


def _signatures(variables: Mapping[str, str], root: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    for name, predictor, weights in _models(variables):
        prefix = f"{name}: " if name else ""
        if weights:
            data = files.get(weights.strip("/"))
            yield f"{prefix}model file", f"{weights} {digest_of(data) if data is not None else ''}".strip()
        module, _, title = predictor.partition(":")
        path = f"{root}/{module.replace('.', '/')}"
        source = files.get(f"{path}.py", files.get(f"{path}/__init__.py"))
        if source is not None:
            yield from ((f"{prefix}{key}", value) for key, value in _predict(source, title))


def _models(variables: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Name (of one among several), predictor and weights of each model."""
    if "BERTH_MODELS" not in variables:
        yield "", variables.get("BERTH_PREDICTOR", ""), variables.get("BERTH_WEIGHTS", "")
        return
    try:
        entries = msgspec.json.decode(variables["BERTH_MODELS"], type=list[dict[str, Any]])
    except msgspec.MsgspecError:
        return
    for entry in entries:
        yield str(entry.get("name", "")), str(entry.get("predictor") or ""), str(entry.get("weights") or "")


def _predict(source: bytes, title: str) -> Iterator[tuple[str, str]]:
    """The parameters and the result of a class's `predict`, as they are written."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == title)
    methods = (node for found in classes for node in found.body)
    for node in methods:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "predict":
            yield from _parameters(node.args)
            yield "predict ->", ast.unparse(node.returns) if node.returns else "anything"


def _parameters(arguments: ast.arguments) -> Iterator[tuple[str, str]]:
    positional = [*arguments.posonlyargs, *arguments.args][1:]
    unset: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults = [*unset, *arguments.defaults, *arguments.kw_defaults]
    for parameter, default in zip([*positional, *arguments.kwonlyargs], defaults, strict=False):
        kind = ast.unparse(parameter.annotation) if parameter.annotation else "anything"
        yield f"predict({parameter.arg})", f"{kind} = {ast.unparse(default)}" if default else kind
