"""The runc engine's store of unpacked layers: each layer once, named by its diff ID, shared by all containers.

`runc.engine` loads images into it and asks it for what to mount. A layer is there when its `<hex>.json` is, which is
written after its folder is whole and verified, and removed before it. Roots are overlays of these folders; where an
overlay cannot be (a layer deletes files of a lower one, too many layers, a kernel without it) a tree of hard links
stands in. Records and trees have the time of their last use, so that `prune` can tell what is old.

Two locks: who changes the store holds `.lock`, for as long as unpacking takes. `.starting` is held for moments, by who
looks whether an image is here and then begins to use it, and by `prune` while it takes away.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.engines.runc.usage import Used
from dockyard.oci.digest import Digest, digest_of, hex_of
from dockyard.oci.files import exclusive, replace_file, store_errors, sync_folder
from dockyard.oci.image import Image, LayerBlob
from dockyard.oci.layout import Layout
from dockyard.oci.unpack import UnpackedLayer, merge_layers, unpack_layer

SKELETON = "skeleton"
LOCK_PATIENCE = 900.0
_OPTIONS_LIMIT = 3900
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PUT_ASIDE = ".gone-"
_LEFT_BY_A_KILL = re.compile(r"\.gone-.*|\.[0-9a-f]{64}\.partial-.*", re.ASCII)
"""The second is what `oci.tree.staged` fills: nobody does while we hold `.lock`."""
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
        self._trees = folder.parent / "trees"

    def starting(self) -> AbstractContextManager[None]:
        """Within it nothing is pruned. Whose folder has its name when it ends is then asked by `prune` what it uses."""
        return exclusive(self.folder / ".starting")

    def has(self, image: Image) -> bool:
        """Whether all layers of an image are here."""
        return all(self._record(diff_id).is_file() for diff_id in image.config.diff_ids)

    def add(self, image: Image, layout: Layout) -> Moved:
        """Unpack the layers that are not here yet; ImageError when one is damaged or unsafe. All count as new."""
        with exclusive(self.folder / ".lock", LOCK_PATIENCE):
            self._make_skeleton()
            missing = {blob.diff_id: blob for blob in image.layer_blobs if not self._renew(blob.diff_id)}
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
        folder = self._trees / _chain(image)
        with exclusive(self.folder / ".lock", LOCK_PATIENCE):
            if not folder.is_dir():
                merge_layers(
                    [UnpackedLayer(self.folder / SKELETON), *map(self._unpacked, image.config.diff_ids)], folder
                )
            with store_errors(folder):
                os.utime(folder)
        return folder

    def prune(self, needed: Sequence[Image], older_than: float, used: Callable[[], Used | None]) -> int:
        """Remove what no image of `needed` has, nobody uses, and is older than so many seconds; the bytes freed.

        `used` is called while no container can begin; when it cannot tell, nothing is removed.
        """
        if not self.folder.is_dir():
            return 0
        with exclusive(self.folder / ".lock"), self.starting():
            in_use = used()
            if in_use is None:
                return 0
            with store_errors(self.folder):
                trees = self._old_trees(in_use.trees | {_chain(image) for image in needed}, older_than)
                wanted = {hex_of(diff_id) for image in needed for diff_id in image.config.diff_ids}
                layers = self._old_layers(wanted, in_use.layers, older_than)
                gone = [*_put_aside(self._trees, trees), *_put_aside(self.folder, layers)]
        return sum(_remove(folder) for folder in gone)

    def _old_trees(self, kept: Iterable[str], older_than: float) -> list[str]:
        names = {path.name for path in _entries(self._trees) if _HEX.fullmatch(path.name)}
        return sorted(name for name in names.difference(kept) if _age(self._trees / name) >= older_than)

    def _old_layers(self, needed: Iterable[str], used: Iterable[str], older_than: float) -> list[str]:
        """Folders that may go. Their records are gone already, and stay so whatever happens next."""
        names = {path.name.removesuffix(".json") for path in _entries(self.folder)}
        records = {name: self.folder / f"{name}.json" for name in names.difference(used) if _HEX.fullmatch(name)}
        whole = {name for name, record in records.items() if record.is_file()}
        old = []
        for name in sorted(records.keys() - whole.intersection(needed)):
            if _age(records[name] if name in whole else self.folder / name) >= older_than:
                records[name].unlink(missing_ok=True)
                old.append(name)
        if old:
            sync_folder(self.folder)
        return [name for name in old if (self.folder / name).is_dir()]

    def _renew(self, diff_id: Digest) -> bool:
        """Whether a layer is here; if so it now counts as just unpacked, since somebody may be about to start it."""
        record = self._record(diff_id)
        with store_errors(record):
            try:
                os.utime(record)
            except FileNotFoundError:
                return False
        return True

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


def _chain(image: Image) -> str:
    """The name of an image's tree: all that it is made of, in its order."""
    return hex_of(digest_of("\n".join(image.config.diff_ids).encode()))


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _age(path: Path) -> float:
    """Seconds since it was written or used."""
    return time.time() - path.lstat().st_mtime


def _put_aside(folder: Path, names: Sequence[str]) -> list[Path]:
    """Give these folders names that mean nothing, so that they can be removed at leisure, and find what a kill left."""
    for name in names:
        (folder / name).rename(folder / f"{_PUT_ASIDE}{os.urandom(6).hex()}")
    return [path for path in _entries(folder) if _LEFT_BY_A_KILL.fullmatch(path.name)]


def _remove(folder: Path) -> int:
    """Remove a folder; the bytes of its files that no layer or tree outside of it shares."""
    files: dict[int, os.stat_result] = {}
    links: Counter[int] = Counter()
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # somebody else prunes too
                status = (Path(place) / name).lstat()
                files[status.st_ino] = status
                links[status.st_ino] += 1
    shutil.rmtree(folder, ignore_errors=True)  # what is left the next time finds
    return sum(status.st_size for inode, status in files.items() if status.st_nlink <= links[inode])
