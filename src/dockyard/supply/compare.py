"""What differs between two images, in terms of what they are made of: packages, files, settings, layers.

`dockyard diff` shows it, and `dockyard verify --rebuild` says with it where a rebuild went another way. Layers of equal
digests are not read. Source of the file listing: the layers themselves, the upper over the lower.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from dockyard.oci.image import Image, LayerBlob
from dockyard.oci.layout import Layout
from dockyard.oci.reading import reading_layer
from dockyard.spec.labels import MODEL_SIGNATURE
from dockyard.supply.contents import Contents
from dockyard.supply.face import FILE_LIMIT, face_of


@dataclass(frozen=True)
class Change:
    """One thing that is not the same; an empty side means that it is not there."""

    name: str
    before: str
    after: str

    @property
    def kind(self) -> str:
        """`added`, `removed` or `changed`."""
        if not self.before:
            return "added"
        return "changed" if self.after else "removed"


@dataclass(frozen=True)
class Difference:
    """Everything that differs; two images of one digest have nothing here."""

    python: tuple[Change, ...] = ()
    system: tuple[Change, ...] = ()
    signature: tuple[Change, ...] = ()
    """Of the model: its inputs and outputs."""
    goldens: tuple[Change, ...] = ()
    """What they ask."""
    expected: tuple[Change, ...] = ()
    """What goldens that are in both images expect."""
    settings: tuple[Change, ...] = ()
    labels: tuple[Change, ...] = ()
    layers: tuple[Change, ...] = ()
    files: tuple[Change, ...] = ()


def compare(
    before: Image, after: Image, inside: tuple[Contents, Contents], layouts: tuple[Layout, Layout]
) -> Difference:
    """Compare two images, each in its layout."""
    old, new = inside
    shared = set(before.config.diff_ids) & set(after.config.diff_ids)
    lower, upper = _files(before, layouts[0], shared), _files(after, layouts[1], shared)
    face, newer = face_of(before.config, lower.kept), face_of(after.config, upper.kept)
    return Difference(
        python=changes({one.name: one.version for one in old.python}, {one.name: one.version for one in new.python}),
        system=changes({one.name: one.version for one in old.system}, {one.name: one.version for one in new.system}),
        signature=changes(face.signature, newer.signature),
        goldens=changes(face.inputs, newer.inputs),
        expected=tuple(one for one in changes(face.outputs, newer.outputs) if one.kind == "changed"),
        settings=changes(_settings(before), _settings(after)),
        labels=changes(_labels(before), _labels(after)),
        layers=changes(_titles(before), _titles(after)),
        files=changes(lower.digests, upper.digests),
    )


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """What is not the same, by name."""
    names = sorted({*before, *after})
    found = (Change(name, before.get(name, ""), after.get(name, "")) for name in names)
    return tuple(change for change in found if change.before != change.after)


def _settings(image: Image) -> dict[str, str]:
    config = image.config
    environment = dict(entry.partition("=")[::2] for entry in config.environment)
    run = {
        "entrypoint": " ".join(config.entrypoint),
        "command": " ".join(config.command),
        "user": config.user,
        "working directory": config.working_dir,
        "ports": " ".join(config.exposed_ports),
    }
    return {**environment, **run}


def _labels(image: Image) -> dict[str, str]:
    """Without the model's signature, which `face` takes apart."""
    return {name: value for name, value in image.config.labels.items() if name != MODEL_SIGNATURE}


def _titles(image: Image) -> dict[str, str]:
    """Layers by the comment of their history, or by number; what they hold by digest."""
    comments = [entry.comment for entry in image.config.history if not entry.empty_layer]
    titles = comments if len(comments) == len(image.layers) and len(set(comments)) == len(comments) else []
    names = titles or [f"layer {number}" for number in range(len(image.layers))]
    return dict(zip(names, image.config.diff_ids, strict=True))


@dataclass
class _Files:
    """The entries of layers: a digest of each one's kind, mode and content; and the content of what callers see."""

    digests: dict[str, str] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)


def _files(image: Image, layout: Layout, shared: Set[str]) -> _Files:
    """Every entry of the layers that are not shared."""
    found = _Files()
    for layer in image.layer_blobs:
        if layer.diff_id not in shared:
            _list(layout, layer, image.config.working_dir.strip("/"), found)
    return found


def _list(layout: Layout, layer: LayerBlob, root: str, found: _Files) -> None:
    with reading_layer(layout, layer) as reader:
        for member in reader:
            running = hashlib.sha256(f"{member.kind} {member.mode:o} {member.target} {member.mtime} ".encode())
            keep = bool(root) and member.name.startswith(f"{root}/") and member.size <= FILE_LIMIT
            content = bytearray()
            for chunk in reader.content():
                running.update(chunk)
                if keep:
                    content += chunk
            found.digests[member.name] = running.hexdigest()[:16]
            if keep and member.name.endswith((".py", ".json", ".onnx")):
                found.kept[member.name] = bytes(content)
