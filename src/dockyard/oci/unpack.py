"""Unpacking a layer into a folder, as if it came from an enemy.

`engines.runc` (to run an image) and `build.base` (to look into one) call it. Never `extractall`: every name is checked
and every step is by descriptor (`tree.py`); entries, bytes and compression ratio are capped; the diff ID is verified
before the folder gets its name. Whiteouts are reported, not created: `merge.py` or an overlay honours them.
Source: OCI image specification 1.1, layer.md.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, cast

from dockyard.oci.digest import Digest
from dockyard.oci.files import store_errors
from dockyard.oci.media import codec_of
from dockyard.oci.merge import merge_layers
from dockyard.oci.meter import Limits, Meter
from dockyard.oci.tar import Member, TarReader
from dockyard.oci.tree import Tree, make_way, safe_parts, staged, unsafe
from dockyard.oci.unpacked import UnpackedLayer

__all__ = ["Limits", "UnpackedLayer", "merge_layers", "unpack_layer"]

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_RESERVED = ".wh..wh."
_BUFFER = 1 << 20
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack_layer(
    stream: BinaryIO, media_type: str, folder: Path, limits: Limits | None = None, *, diff_id: Digest
) -> UnpackedLayer:
    """Unpack a compressed layer into `folder`, which must not be there yet (or be empty).

    The owner is the current user; set-uid and set-gid bits are dropped, owners may always read, times of files are
    kept. ImageError, and no folder, when the layer is unsafe, damaged, over a limit or not `diff_id`; StoreError when
    the disk is full.
    """
    what = f"layer {diff_id}"
    limits = limits or Limits()
    meter = Meter(stream, codec_of(media_type), limits, what)
    with staged(folder) as partial:
        unpacking = _Unpacking(partial, what)
        try:
            reader = TarReader(cast(BinaryIO, io.BufferedReader(meter, _BUFFER)), what, limits.entries)
            for member in reader:
                with store_errors(folder):
                    unpacking.add(member, reader)
        finally:
            unpacking.close()
        meter.verify(diff_id)
    return UnpackedLayer(
        folder, tuple(unpacking.whiteouts), tuple(unpacking.opaque), unpacking.entries, unpacking.bytes
    )


class _Unpacking:
    """The state of one layer on its way into a tree."""

    def __init__(self, root: Path, what: str) -> None:
        self._tree = Tree(root, what)
        self._what = what
        self.whiteouts: list[str] = []
        self.opaque: list[str] = []
        self.entries = 0
        self.bytes = 0

    def close(self) -> None:
        self._tree.close()

    def add(self, member: Member, reader: TarReader) -> None:
        self.entries += 1
        parts = safe_parts(member.name, self._what)
        if parts and parts[-1].startswith(_WHITEOUT):
            self._whiteout(parts, member)
        elif member.kind == "folder":
            self._folder(parts, member)
        elif not parts or any(part.startswith(_WHITEOUT) for part in parts):
            raise unsafe(self._what, member.name, "cannot be the name of a file")
        elif member.kind == "file":
            self._file(parts, member, reader)
        elif member.kind == "link":
            self._link(parts, member)
        elif member.kind == "hardlink":
            self._hardlink(parts, member)
        else:
            raise unsafe(self._what, member.name, "is a device or a pipe")

    def _whiteout(self, parts: tuple[str, ...], member: Member) -> None:
        name = parts[-1]
        if name == _OPAQUE:
            self.opaque.append("/".join(parts[:-1]))
        elif not name.startswith(_RESERVED):
            victim = name.removeprefix(_WHITEOUT)
            if victim in {"", ".", ".."}:
                raise unsafe(self._what, member.name, "deletes what it must not")
            self.whiteouts.append("/".join((*parts[:-1], victim)))

    def _folder(self, parts: tuple[str, ...], member: Member) -> None:
        os.fchmod(self._tree.folder(parts), member.mode & 0o1777 | 0o700)

    def _file(self, parts: tuple[str, ...], member: Member, reader: TarReader) -> None:
        descriptor = os.open(parts[-1], _FILE_FLAGS, 0o600, dir_fd=self._place(parts, member))
        try:
            for chunk in reader.content():
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            os.fchmod(descriptor, member.mode & 0o777 | 0o400)
            os.utime(descriptor, (member.mtime, member.mtime))
        finally:
            os.close(descriptor)
        self.bytes += member.size

    def _link(self, parts: tuple[str, ...], member: Member) -> None:
        if not member.target or "\0" in member.target:
            raise unsafe(self._what, member.name, "is a link without a target")
        os.symlink(member.target, parts[-1], dir_fd=self._place(parts, member))

    def _hardlink(self, parts: tuple[str, ...], member: Member) -> None:
        target = safe_parts(member.target, self._what)
        if not target or target == parts:
            raise unsafe(self._what, member.name, "is a hard link to itself or to nothing")
        source = os.dup(self._tree.folder(target[:-1]))
        try:
            place = self._place(parts, member)
            os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=place, follow_symlinks=False)
        except (FileNotFoundError, PermissionError):
            raise unsafe(self._what, member.name, f"is a hard link to {member.target!r}, which is no file") from None
        finally:
            os.close(source)

    def _place(self, parts: tuple[str, ...], member: Member) -> int:
        """The open folder where the last of `parts` can now be made."""
        folder = self._tree.folder(parts[:-1])
        if not make_way(folder, parts[-1]):
            raise unsafe(self._what, member.name, "is a folder and something else at once")
        return folder
