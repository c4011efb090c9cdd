"""Layers: files become a tar, always to the same bytes, and the tar a blob, in one pass.

The builder makes every layer of an image here. Owner, times, order, parents and header format are fixed, so the digest
depends on nothing but paths, modes and content. One pass: tar -> sha256 (diff ID) -> codec -> sha256 (blob) -> disk;
compression runs on all cores and memory stays flat. Format: POSIX.1-2001 pax, by the standard library's TarInfo.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dockyard.errors import ImageError
from dockyard.oci.blobs import Blobs, BlobWriter
from dockyard.oci.codecs import MEMBER, codec_version, compressor
from dockyard.oci.digest import Digest
from dockyard.oci.files import store_errors
from dockyard.oci.image import Descriptor, LayerBlob
from dockyard.oci.media import LAYER_OF_CODEC, Codec

__all__ = ["Codec", "Entry", "Kind", "LayerBlob", "codec_version", "entries_of", "write_layer"]

Kind = Literal["file", "folder", "link", "hardlink"]

_BLOCK = 512
_END = 2 * _BLOCK
_READ = 1 << 20
_MODE_MASK = 0o1777
_WHITEOUT = ".wh."
_TYPES = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE}


@dataclass(frozen=True)
class Entry:
    """One path of a layer: relative, with slashes. The owner is always 0:0.

    A file has a `source`, its path on this machine or its bytes. A link (symbolic) has a `target` as it is read by the
    kernel; a hardlink's `target` is the path of a file in the same layer. Set-uid and set-gid bits are dropped.
    """

    path: str
    mode: int
    kind: Kind = "file"
    source: Path | bytes | None = None
    target: str = ""


def entries_of(folder: Path, prefix: str = "", *, skip: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """Every path below `folder`, put below `prefix`, sorted; the prefix's own folders come with it.

    Modes become 0755 (folders, executables) or 0644, so they depend neither on umask nor on file system. Symbolic
    links stay links. Names in `skip` are left out wherever they stand. ImageError for sockets, pipes and devices.
    """
    if prefix:
        yield Entry(prefix.strip("/"), 0o755, "folder")
    yield from _walk(folder, prefix.strip("/"), skip)


def _walk(folder: Path, prefix: str, skip: frozenset[str]) -> Iterator[Entry]:
    with store_errors(folder), os.scandir(folder) as found:
        children = sorted(found, key=lambda child: child.name)
    for child in children:
        if child.name in skip:
            continue
        path = f"{prefix}/{child.name}" if prefix else child.name
        with store_errors(Path(child.path)):
            mode = child.stat(follow_symlinks=False).st_mode
            target = os.readlink(child.path) if stat.S_ISLNK(mode) else ""  # noqa: PTH115 (a string as it is)
        if stat.S_ISLNK(mode):
            yield Entry(path, 0o777, "link", target=target)
        elif stat.S_ISDIR(mode):
            yield Entry(path, 0o755, "folder")
            yield from _walk(Path(child.path), path, skip)
        elif stat.S_ISREG(mode):
            yield Entry(path, 0o755 if mode & 0o100 else 0o644, "file", Path(child.path))
        else:
            raise ImageError(
                f"{child.path} is neither file, folder nor link", remedy="Remove it: a socket, pipe or device."
            )


def write_layer(
    entries: Iterable[Entry], codec: Codec, blobs: Blobs, *, epoch: int = 0, threads: int | None = None
) -> LayerBlob:
    """Write a layer into the blob store. The same entries give the same digest on every machine.

    Missing parent folders are added with mode 0755; `epoch` (s) is every entry's time. ImageError for a path that is
    unsafe, comes twice, or lies below something that is no folder, and for a file that changes while it is read;
    StoreError when the disk is full. Nothing is left behind on an error.
    """
    ordered = _in_order(entries)
    pump = compressor(codec, threads)
    diff = hashlib.sha256()
    members = _Members(epoch)
    with blobs.writer() as writer:
        try:
            for member in members.of(ordered):
                if codec != "none":
                    diff.update(member)
                _write_all(writer, pump.feed(member))
            _write_all(writer, pump.finish())
        finally:
            pump.close()
        digest = writer.commit()
        diff_id = digest if codec == "none" else Digest("sha256:" + diff.hexdigest())
        descriptor = Descriptor(LAYER_OF_CODEC[codec], digest, writer.size)
    return LayerBlob(descriptor, diff_id, len(ordered), members.unpacked)


def _write_all(writer: BlobWriter, pieces: Iterator[bytes | bytearray]) -> None:
    for piece in pieces:
        writer.write(piece)


class _Members:
    """The bytes of a tar in buffers of `MEMBER` bytes each."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._buffer = bytearray()
        self.unpacked = 0

    def of(self, entries: Iterable[Entry]) -> Iterator[bytearray]:
        for entry in entries:
            if entry.kind != "file":
                yield from self._append(_header(entry, 0, self._epoch))
            elif isinstance(entry.source, bytes):
                yield from self._append(_header(entry, len(entry.source), self._epoch))
                yield from self._append(entry.source)
                yield from self._append(_padding(len(entry.source)))
                self.unpacked += len(entry.source)
            else:
                yield from self._file(entry)
        yield from self._append(bytes(_END))
        if self._buffer:
            yield self._buffer

    def _file(self, entry: Entry) -> Iterator[bytearray]:
        assert isinstance(entry.source, Path)
        descriptor = _open_regular(entry.source)
        try:
            size = os.fstat(descriptor).st_size
            yield from self._append(_header(entry, size, self._epoch))
            rest = size
            while rest:
                with store_errors(entry.source):
                    chunk = os.read(descriptor, min(rest, _READ))
                if not chunk:
                    raise _changed(entry.source)
                rest -= len(chunk)
                yield from self._append(chunk)
            if os.read(descriptor, 1):
                raise _changed(entry.source)
            yield from self._append(_padding(size))
            self.unpacked += size
        finally:
            os.close(descriptor)

    def _append(self, data: bytes) -> Iterator[bytearray]:
        rest = memoryview(data)
        while len(rest) >= MEMBER - len(self._buffer):
            room = MEMBER - len(self._buffer)
            self._buffer += rest[:room]
            rest = rest[room:]
            yield self._buffer
            self._buffer = bytearray()
        self._buffer += rest


def _changed(path: Path) -> ImageError:
    return ImageError(f"{path} changed while it was being read", remedy="Build again when nothing writes to it.")


def _open_regular(path: Path) -> int:
    with store_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError(f"{path} is not a regular file", remedy="Name a file with content.")
    return descriptor


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _header(entry: Entry, size: int, epoch: int) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.type = _TYPES[entry.kind]
    info.mode = entry.mode & _MODE_MASK
    info.size = size
    info.mtime = epoch
    info.linkname = entry.target
    return info.tobuf(tarfile.PAX_FORMAT)


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Sorted by path, parents first, hard links last (their targets must exist before them)."""
    chosen: dict[str, Entry] = {}
    for entry in entries:
        _check(entry)
        former = chosen.get(entry.path)
        if former is not None and not (former == entry and entry.kind == "folder"):
            raise ImageError(f"{entry.path!r} comes twice in one layer", remedy="Leave out one of the two.")
        chosen[entry.path] = entry
    for entry in list(chosen.values()):
        _add_parents(entry.path, chosen)
    for entry in chosen.values():
        target = chosen.get(entry.target)
        if entry.kind == "hardlink" and (target is None or target.kind != "file"):
            raise ImageError(
                f"{entry.path!r} is a hard link to {entry.target!r}, which is no file of the same layer",
                remedy="Put both into the same layer, or make it a symbolic link.",
            )
    return sorted(chosen.values(), key=lambda entry: (entry.kind == "hardlink", entry.path))


def _add_parents(path: str, chosen: dict[str, Entry]) -> None:
    parent = path.rpartition("/")[0]
    while parent:
        known = chosen.get(parent)
        if known is None:
            chosen[parent] = Entry(parent, 0o755, "folder")
        elif known.kind != "folder":
            raise ImageError(f"{path!r} lies below {parent!r}, which is no folder", remedy="Rename one of the two.")
        else:
            return
        parent = parent.rpartition("/")[0]


def _check(entry: Entry) -> None:
    parts = entry.path.split("/")
    if not all(part not in {"", ".", ".."} for part in parts) or "\0" in entry.path + entry.target:
        raise ImageError(
            f"{entry.path!r} cannot be a path in a layer", remedy="Use a relative path without '.', '..' or '//'."
        )
    try:
        (entry.path + entry.target).encode()
    except UnicodeEncodeError as error:
        raise ImageError(
            f"the name {entry.path!r} is not UTF-8", remedy="Rename the file: its name could not be read elsewhere."
        ) from error
    if any(part.startswith(_WHITEOUT) for part in parts):
        raise ImageError(
            f"{entry.path!r} would delete files of the layers below",
            remedy=f"Rename it: names that begin with {_WHITEOUT!r} are reserved by the image format.",
        )
    if entry.kind == "file" and entry.source is None:
        raise ImageError(f"{entry.path!r} is a file without a source", remedy="Give its path or its bytes.")
    if entry.kind in {"link", "hardlink"} and not entry.target:
        raise ImageError(f"{entry.path!r} is a link without a target", remedy="Give the path that it points to.")
