"""Image archives: one tar that is an OCI layout and a docker-archive at once; and reading either kind.

Engines load what is written here (`docker load` of Docker 20.10 and newer, podman), skopeo reads it as `oci-archive:`
and `docker-archive:`, and a machine without a network gets its images this way. A thin archive leaves out layers that
the engine has. Sources: OCI image specification 1.1, image-layout.md; Docker image specification 1.2 (manifest.json).
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

from dockyard.errors import ImageError
from dockyard.oci import media, wire
from dockyard.oci.digest import CHUNK, Digest, hex_of, parse_digest
from dockyard.oci.files import PartialFile, remove_stale, store_errors, sync_folder
from dockyard.oci.image import Descriptor, Image, encode_manifest
from dockyard.oci.layout import MARKER, REF_NAME, Layout
from dockyard.oci.meter import Limits, Meter
from dockyard.oci.reference import tagged
from dockyard.oci.tar import TarReader
from dockyard.oci.tree import safe_parts

_BLOCK = 512
END = bytes(2 * _BLOCK)
BLOBS = "blobs/sha256/"
_DOCUMENTS = frozenset({"oci-layout", "index.json", "manifest.json"})
LIMITS = Limits(entries=100_000, bytes=1 << 40)


def write_archive(
    image: Image, layout: Layout, name: str, out: BinaryIO | Path, *, omit_layers: frozenset[Digest] = frozenset()
) -> None:
    """Write the archive of an image to a stream, or to a path (whole or not at all).

    See `archive_chunks`. StoreError when the disk is full, ImageError when a blob is damaged.
    """
    chunks = archive_chunks(image, layout, name, omit_layers=omit_layers)
    if not isinstance(out, Path):
        for chunk in chunks:
            out.write(chunk)
        return
    write_whole(chunks, out)


def write_whole(chunks: Iterable[bytes], out: Path) -> int:
    """Write a file, whole or not at all; returns its bytes."""
    prefix, size = f".{out.name}.partial-", 0
    remove_stale(out.parent, prefix)
    with PartialFile(out.parent, prefix) as partial:
        for chunk in chunks:
            partial.write(chunk)
            size += len(chunk)
        partial.commit(out)
    sync_folder(out.parent)
    return size


def archive_chunks(
    image: Image, layout: Layout, name: str, *, omit_layers: frozenset[Digest] = frozenset()
) -> Iterator[bytes]:
    """The bytes of the archive, in pieces of at most 1 MiB; the same image and name give the same bytes.

    `omit_layers` are diff IDs that the reader has. Engines know layers by the chain from the lowest one up, so of
    these only the unbroken run from the bottom is left out; the result is for such an engine and nobody else.
    """
    tag = tagged(name)
    omitted = _lowest_run(image, omit_layers)
    written = [blob for blob in dict.fromkeys(blob.digest for blob in image.blobs) if blob not in omitted]
    entry = replace(image.manifest, annotations={REF_NAME: tag}, platform=image.config.platform).document()
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}
    docker = {
        "Config": BLOBS + hex_of(image.image_id),
        "RepoTags": [tag],
        "Layers": [BLOBS + hex_of(layer.digest) for layer in image.layers],
    }
    yield from archived_document("oci-layout", MARKER)
    yield from archived_document("index.json", wire.encode(index))
    yield from archived_document("manifest.json", wire.encode([docker]))
    yield _header("blobs", tarfile.DIRTYPE, 0o755, 0)
    yield _header("blobs/sha256", tarfile.DIRTYPE, 0o755, 0)
    for digest in written:
        yield from archived_blob(layout, digest)
    yield END


def _lowest_run(image: Image, had: frozenset[Digest]) -> set[Digest]:
    """The blobs of the lowest layers, up to the first that the reader lacks."""
    omitted: set[Digest] = set()
    for position, layer in enumerate(image.layer_blobs):
        if layer.diff_id not in had:
            return omitted - {above.digest for above in image.layers[position:]}
        omitted.add(layer.descriptor.digest)
    return omitted


def archived_document(name: str, data: bytes) -> Iterator[bytes]:
    """A small file of an archive, in the bytes of a tar."""
    yield _header(name, tarfile.REGTYPE, 0o644, len(data))
    yield data + bytes(-len(data) % _BLOCK)


def archived_blob(layout: Layout, digest: Digest) -> Iterator[bytes]:
    """A blob as a file of an archive, verified on its way."""
    with layout.blobs.open(digest) as file:
        size = layout.blobs.path(digest).stat().st_size
        yield _header(BLOBS + hex_of(digest), tarfile.REGTYPE, 0o644, size)
        while chunk := file.read(CHUNK):
            yield chunk
    yield bytes(-size % _BLOCK)


def _header(name: str, kind: bytes, mode: int, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, mode, size
    return info.tobuf(tarfile.PAX_FORMAT)


def read_archive(path: Path, layout: Layout) -> list[Image]:
    """Put every image of an OCI archive or docker-archive (plain, gzip or zstd) into a layout, by its name.

    An image without a name gets that of the file. ImageError when the archive is damaged, unsafe or lacks a layer.
    """
    contents = _Contents(path, layout)
    with store_errors(path):
        file = path.open("rb")
    what = f"archive {path}"
    with file:
        codec = codec_of_start(file.read(4))
        file.seek(0)
        meter = Meter(cast(BinaryIO, file), codec, LIMITS, what)
        contents.take(TarReader(cast(BinaryIO, io.BufferedReader(meter, CHUNK)), what, LIMITS.entries))
    images = contents.oci_images() if "index.json" in contents.documents else contents.docker_images()
    if not images:
        raise ImageError(
            f"archive {path} holds no image to run", remedy="Write it with `docker save` or `skopeo copy`."
        )
    return images


def codec_of_start(start: bytes) -> media.Codec:
    """How a file is compressed, by its first four bytes."""
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    return "zstd" if start == b"\x28\xb5\x2f\xfd" else "none"


class _Contents:
    """What an archive holds: documents in memory, every other file in the blob store of the layout."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._what = f"archive {path}"
        self._fallback = path.name.split(".")[0]
        self._layout = layout
        self.documents: dict[str, bytes] = {}
        self._files: dict[str, Digest] = {}
        self._links: dict[str, str] = {}

    def take(self, reader: TarReader) -> None:
        for member in reader:
            name = "/".join(safe_parts(member.name, self._what))
            if member.kind == "link":
                self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.target))
            elif member.kind == "file" and name in _DOCUMENTS:
                if member.size > media.DOCUMENT_LIMIT:
                    raise ImageError(f"{name} in {self._what} is too large", remedy="It is no image archive.")
                self.documents[name] = b"".join(reader.content())
            elif member.kind == "file":
                self._files[name] = self._store(name, reader)

    def _store(self, name: str, reader: TarReader) -> Digest:
        expected = parse_digest("sha256:" + name.removeprefix(BLOBS)) if name.startswith(BLOBS) else None
        with self._layout.blobs.writer() as writer:
            for chunk in reader.content():
                writer.write(chunk)
            return writer.commit(expected)

    def oci_images(self) -> list[Image]:
        what = f"index.json in {self._what}"
        entries = [
            Descriptor.of_wire(entry) for entry in wire.decode_index(self.documents["index.json"], what).manifests or ()
        ]
        names = {self._file(image.config): image.repo_tags or [] for image in self._docker_entries()}
        images = []
        for entry in entries:
            for manifest in self._layout.manifests([entry]):
                image = self._layout.load(manifest)
                named = names.get(image.image_id) or [entry.annotations.get(REF_NAME) or self._fallback]
                for name in named:
                    self._layout.add(image, name)
                images.append(image)
        return images

    def docker_images(self) -> list[Image]:
        images = []
        for told in self._docker_entries():
            image = self._docker_image(told)
            for name in told.repo_tags or [self._fallback]:
                self._layout.add(image, name)
            images.append(image)
        return images

    def _docker_entries(self) -> list[wire.ArchiveImageWire]:
        if "manifest.json" not in self.documents:
            return []
        return wire.decode(
            self.documents["manifest.json"], list[wire.ArchiveImageWire], f"manifest.json in {self._what}"
        )

    def _docker_image(self, told: wire.ArchiveImageWire) -> Image:
        """Docker's archive has no manifest: make one of the same configuration and layers."""
        blobs = self._layout.blobs
        config_bytes = blobs.read(self._file(told.config))
        config = Descriptor(media.OCI_CONFIG, self._file(told.config), len(config_bytes))
        layers = [self._layer(name) for name in told.layers]
        data = encode_manifest(config, layers, None)
        manifest = Descriptor(media.OCI_MANIFEST, blobs.write(data), len(data))
        image = Image.decode(manifest, data, config_bytes)
        for layer in image.layer_blobs:
            if media.codec_of(layer.descriptor.media_type) == "none" and layer.descriptor.digest != layer.diff_id:
                raise ImageError(f"layer {layer.diff_id} in {self._what} is damaged", remedy="Write the archive again.")
        return image

    def _layer(self, name: str) -> Descriptor:
        digest = self._file(name)
        with store_errors(self._layout.blobs.path(digest)), self._layout.blobs.path(digest).open("rb") as file:
            codec = codec_of_start(file.read(4))
            size = file.seek(0, 2)
        return Descriptor(media.LAYER_OF_CODEC[codec], digest, size)

    def _file(self, name: str) -> Digest:
        """The blob of a file in the archive, through at most a few links."""
        for _ in range(4):
            name = self._links.get(name, name)
        with suppress(KeyError):
            return self._files[name]
        raise ImageError(f"{name[:200]!r} is missing from {self._what}", remedy="Write the whole archive again.")
