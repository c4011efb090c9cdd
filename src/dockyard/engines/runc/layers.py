"""The runc engine's store of unpacked layers: each layer once, named by its diff ID, shared by all containers.

`runc.engine` loads images into it and asks it for what to mount. A layer is there when its `<hex>.json` is, which is
written after its folder is whole and verified. Roots are overlays of these folders; where an overlay cannot be (a
layer deletes files of a lower one, too many layers, a kernel without it) a tree of hard links stands in.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.oci.digest import Digest, digest_of, hex_of
from dockyard.oci.files import exclusive, replace_file, store_errors
from dockyard.oci.image import Image, LayerBlob
from dockyard.oci.layout import Layout
from dockyard.oci.unpack import UnpackedLayer, merge_layers, unpack_layer

SKELETON = "skeleton"
LOCK_PATIENCE = 900.0
_OPTIONS_LIMIT = 3900
_MOUNT_POINTS = ("dev", "etc", "proc", "run/berth", "run/secrets", "sys", "tmp")
_FILES = {"etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n", "etc/hostname": "localhost\n", "etc/resolv.conf": ""}


class Deletions(msgspec.Struct, frozen=True):
    """`<hex>.json`: what a layer deletes of the layers below it."""

    whiteouts: tuple[str, ...]
    opaque: tuple[str, ...]


@dataclass(frozen=True)
class Moved:
    """What `add` unpacked: layers, and their compressed bytes."""

    layers: int
    bytes: int


class LayerStore:
    """Unpacked layers in one folder. Its methods block: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, image: Image) -> bool:
        """Whether all layers of an image are here."""
        return all(self._record(diff_id).is_file() for diff_id in image.config.diff_ids)

    def add(self, image: Image, layout: Layout) -> Moved:
        """Unpack the layers that are not here yet; ImageError when one is damaged or unsafe."""
        with exclusive(self.folder / ".lock", LOCK_PATIENCE):
            self._make_skeleton()
            missing = {blob.diff_id: blob for blob in image.layer_blobs if not self._record(blob.diff_id).is_file()}
            for blob in missing.values():
                self._unpack(blob, layout)
        return Moved(len(missing), sum(blob.descriptor.size for blob in missing.values()))

    def overlay(self, image: Image) -> tuple[str, ...]:
        """The folders to lay over each other, uppermost first; empty when an overlay would not be right."""
        layers = list(dict.fromkeys(reversed(image.config.diff_ids)))
        deletions = [self._deletions(diff_id) for diff_id in layers[:-1]]
        if any(each.whiteouts or each.opaque for each in deletions) or len(layers) < len(image.config.diff_ids):
            return ()
        names = (*(hex_of(diff_id) for diff_id in layers), SKELETON)
        return names if sum(len(name) + 1 for name in names) < _OPTIONS_LIMIT else ()

    def tree(self, image: Image) -> Path:
        """One folder with the whole root, of hard links; made at the first call."""
        chain = digest_of("\n".join(image.config.diff_ids).encode())
        folder = self.folder.parent / "trees" / hex_of(chain)
        with exclusive(self.folder / ".lock", LOCK_PATIENCE):
            if not folder.is_dir():
                merge_layers(
                    [UnpackedLayer(self.folder / SKELETON), *map(self._unpacked, image.config.diff_ids)], folder
                )
        return folder

    def _record(self, diff_id: Digest) -> Path:
        return self.folder / f"{hex_of(diff_id)}.json"

    def _deletions(self, diff_id: Digest) -> Deletions:
        with store_errors(self._record(diff_id)):
            return msgspec.json.decode(self._record(diff_id).read_bytes(), type=Deletions)

    def _unpacked(self, diff_id: Digest) -> UnpackedLayer:
        deletions = self._deletions(diff_id)
        return UnpackedLayer(self.folder / hex_of(diff_id), deletions.whiteouts, deletions.opaque)

    def _unpack(self, blob: LayerBlob, layout: Layout) -> None:
        folder = self.folder / hex_of(blob.diff_id)
        with store_errors(folder), suppress(FileNotFoundError):
            shutil.rmtree(folder)  # of a process that was killed before it wrote the record
        with layout.blobs.open(blob.descriptor.digest) as stream:
            layer = unpack_layer(stream, blob.descriptor.media_type, folder, diff_id=blob.diff_id)
        record = self._record(blob.diff_id)
        replace_file(record, msgspec.json.encode(Deletions(layer.whiteouts, layer.opaque)), self.folder / ".partial")

    def _make_skeleton(self) -> None:
        """The mount points that an image may lack; nothing can be made in a read-only root."""
        skeleton = self.folder / SKELETON
        with store_errors(skeleton):
            for name in _MOUNT_POINTS:
                (skeleton / name).mkdir(mode=0o755, parents=True, exist_ok=True)
            for name, text in _FILES.items():
                if not (skeleton / name).exists():
                    (skeleton / name).write_text(text, encoding="utf-8")
