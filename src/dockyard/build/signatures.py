"""The inputs and outputs of models that a format loads, from their files. Nothing is executed.

An ONNX file says all. A scikit-learn estimator's pickle tells its class, its features and its classes; which methods it
has, only its code would tell. Called by `builder`; what a file says is remembered by its digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from dockyard.build.contents_check import pickle_facts
from dockyard.build.onnx_header import read_onnx
from dockyard.build.workshop import Workshop
from dockyard.oci.digest import Digest, hex_of
from dockyard.oci.files import replace_file
from dockyard.spec.project import AnyModel
from dockyard.spec.signature import Signature, Tensor, encode

_FORMAT = 1
_LIMIT = 1 << 16  # bytes of the label
_KINDS = {"float64": "FP64", "float32": "FP32", "int64": "INT64", "object": "BYTES"}


def signature_label(workshop: Workshop, loaded: Sequence[str], weights: Mapping[str, Digest]) -> str:
    """The label of all models together; empty when no file tells anything, or far too much for a label.

    `loaded` names the file of each of the project's models, "" for a predictor's.
    """
    models = zip(workshop.project.project.every_model, loaded, strict=True)
    found = [one for model, file in models if file and (one := _of(workshop, model, file, weights[file]))]
    label = encode(found) if found else ""
    return label if len(label) <= _LIMIT else ""


def _of(workshop: Workshop, model: AnyModel, file: str, digest: Digest) -> Signature | None:
    if model.format == "sklearn":
        return _of_estimator(workshop, model, file, digest)
    inputs, outputs = _remembered(workshop, workshop.project.path / file, digest)
    return Signature(model.name, inputs, outputs) if outputs else None


class _Note(msgspec.Struct):
    format: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def _remembered(workshop: Workshop, file: Path, digest: Digest) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    place = workshop.cache / "signatures" / f"{hex_of(digest)}.json"
    try:
        note = msgspec.json.decode(place.read_bytes(), type=_Note)
        if note.format == _FORMAT:
            return note.inputs, note.outputs
    except (FileNotFoundError, msgspec.MsgspecError):
        pass  # not read before
    try:
        inputs, outputs = read_onnx(file)
    except ValueError:
        inputs, outputs = (), ()  # onnxruntime will say what is wrong with it
    replace_file(place, msgspec.json.encode(_Note(_FORMAT, inputs, outputs)), place.parent)
    return inputs, outputs


def _of_estimator(workshop: Workshop, model: AnyModel, file: str, digest: Digest) -> Signature | None:
    estimator = pickle_facts(workshop, file, digest).estimator
    if estimator is None:
        return None
    kind = _KINDS.get(str(model.options.get("dtype", "float64")), "")
    return Signature(
        model.name,
        inputs=(Tensor("input", kind, (-1, estimator.features or -1)),),
        outputs=tuple(_labels(estimator.label)),
        estimator=estimator.name,
        classes=estimator.classes,
    )


def _labels(datatype: str) -> Iterator[Tensor]:
    if datatype:
        yield Tensor("label", datatype, (-1,))
