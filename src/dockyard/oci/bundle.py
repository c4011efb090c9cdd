"""Bundles: images with all their platforms, signatures and documents in one file, for places without a network.

A bundle is a tar of an OCI layout, so other tools read it too, with public keys beside it. A delta leaves out the blobs
that the other side has. Reading it changes names in the store only when every byte has arrived and was verified.
`dockyard export` and `import` call it. Source: OCI image specification 1.1, image-layout.md.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

from dockyard.errors import ImageError
from dockyard.oci import media, wire
from dockyard.oci.archive import (
    BLOBS,
    END,
    LIMITS,
    archived_blob,
    archived_document,
    codec_of_start,
    write_whole,
)
from dockyard.oci.artifact import Artifact
from dockyard.oci.copying import attached_to
from dockyard.oci.digest import Digest, parse_digest
from dockyard.oci.files import store_errors
from dockyard.oci.image import Descriptor
from dockyard.oci.layout import MARKER, REF_NAME, Layout
from dockyard.oci.meter import Meter
from dockyard.oci.tar import Member, TarReader
from dockyard.oci.tree import safe_parts

KEYS = "keys/"
_KEY_LIMIT = 1 << 16


@dataclass(frozen=True)
class Bundle:
    """What a bundle brought: names with what they stand for, and public keys (PEM) by file name."""

    entries: Mapping[str, Descriptor]
    artifacts: tuple[Artifact, ...]
    keys: Mapping[str, bytes]


def write_bundle(
    names: Iterable[str], layout: Layout, out: Path, keys: Mapping[str, bytes], omit: frozenset[Digest] = frozenset()
) -> int:
    """Write images by name to a file, whole or not at all; returns its bytes. The same images give the same bytes."""
    entries = {name: layout.entry(name) for name in sorted(names)}
    return write_whole(_chunks(entries, layout, keys, omit), out)


def inventory(layout: Layout) -> frozenset[Digest]:
    """Every blob that images of this layout consist of, for the other side to leave out."""
    return frozenset(layout.blobs)


def _chunks(
    entries: Mapping[str, Descriptor], layout: Layout, keys: Mapping[str, bytes], omit: frozenset[Digest]
) -> Iterator[bytes]:
    artifacts = {one.digest: one for entry in entries.values() for one in attached_to(layout, entry)}
    listed = [replace(entry, annotations={REF_NAME: name}).document() for name, entry in entries.items()]
    listed += [artifact.manifest.document() for artifact in artifacts.values()]
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": listed}
    yield from archived_document("oci-layout", MARKER)
    yield from archived_document("index.json", wire.encode(index))
    for name, pem in sorted(keys.items()):
        yield from archived_document(KEYS + name, pem)
    needed = {blob.digest for entry in entries.values() for blob in _blobs(layout, entry)}
    needed |= {blob.digest for artifact in artifacts.values() for blob in artifact.blobs}
    for digest in sorted(needed - omit):
        yield from archived_blob(layout, digest)
    yield END


def _blobs(layout: Layout, entry: Descriptor) -> Iterator[Descriptor]:
    yield entry
    for image in layout.members(entry):
        yield from image.blobs


def read_bundle(path: Path, layout: Layout) -> Bundle:
    """Put everything of a bundle into a layout; ImageError when it is damaged, unsafe, or lacks a blob."""
    contents = _Contents(layout, f"bundle {path}")
    with store_errors(path):
        file = path.open("rb")
    with file:
        codec = codec_of_start(file.read(4))
        file.seek(0)
        meter = Meter(cast(BinaryIO, file), codec, LIMITS, contents.what)
        reader = TarReader(cast(BinaryIO, io.BufferedReader(meter, 1 << 20)), contents.what, LIMITS.entries)
        for member in reader:
            contents.take(member, reader)
    return contents.settle()


class _Contents:
    """A bundle being read: documents in memory, blobs in the store."""

    def __init__(self, layout: Layout, what: str) -> None:
        self.what = what
        self._layout = layout
        self._index = b""
        self._keys: dict[str, bytes] = {}

    def take(self, member: Member, reader: TarReader) -> None:
        """Keep one file."""
        name = "/".join(safe_parts(member.name, self.what))
        if member.kind != "file":
            return
        if name == "index.json":
            self._index = self._small(member, reader, media.DOCUMENT_LIMIT)
        elif name.startswith(KEYS) and name.count("/") == 1:
            self._keys[name.removeprefix(KEYS)] = self._small(member, reader, _KEY_LIMIT)
        elif name.startswith(BLOBS):
            with self._layout.blobs.writer() as writer:
                for chunk in reader.content():
                    writer.write(chunk)
                writer.commit(parse_digest("sha256:" + name.removeprefix(BLOBS)))

    def settle(self) -> Bundle:
        """Give the names; nothing has changed in the store before, but blobs that nobody refers to."""
        if not self._index:
            raise ImageError(f"{self.what} has no index.json", remedy="Write it with `dockyard export`.")
        index = wire.decode_index(self._index, f"index.json in {self.what}")
        told = [Descriptor.of_wire(entry) for entry in index.manifests or ()]
        entries = {entry.annotations[REF_NAME]: entry for entry in told if REF_NAME in entry.annotations}
        artifacts = tuple(self._artifact(entry) for entry in told if REF_NAME not in entry.annotations)
        self._check(told)
        for name, entry in entries.items():
            self._layout.add_entry(replace(entry, annotations={}), name)
        for artifact in artifacts:
            self._layout.adopt(artifact)
        return Bundle(entries, artifacts, self._keys)

    def _check(self, told: list[Descriptor]) -> None:
        """Every manifest that is named must be here, and be whole."""
        for entry in told:
            for image in self._layout.members(entry):
                missing = [blob.digest for blob in image.blobs if not self._layout.blobs.has(blob.digest)]
                if missing:
                    raise self._incomplete(missing[0])

    def _artifact(self, entry: Descriptor) -> Artifact:
        if not self._layout.blobs.has(entry.digest):
            raise self._incomplete(entry.digest)
        return Artifact.decode(entry, self._layout.blobs.read(entry.digest))

    def _incomplete(self, digest: Digest) -> ImageError:
        return ImageError(
            f"{self.what} lacks blob {digest}, and so does this store",
            remedy="It is a delta for another store: export it whole, or with this store's own list (--have).",
        )

    def _small(self, member: Member, reader: TarReader, limit: int) -> bytes:
        if member.size > limit:
            raise ImageError(f"{member.name[:100]} in {self.what} is too large", remedy="It is no bundle.")
        return b"".join(reader.content())
