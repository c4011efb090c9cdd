"""Whether a layout still says what was written into it: every byte of an image, and every entry of the index.

Blobs are named by their digests, so a changed blob shows by itself when it is read. The index is not: it is held
against the documents that it lists. `dockyard verify` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dockyard.errors import ImageError
from dockyard.oci import media, wire
from dockyard.oci.copying import attached_to
from dockyard.oci.digest import CHUNK
from dockyard.oci.files import store_errors
from dockyard.oci.image import Descriptor, Image
from dockyard.oci.layout import REF_NAME, Layout


def check_entry(layout: Layout, entry: Descriptor) -> None:
    """Read every byte of an image or an index, and of all that is attached; ImageError names the first bad blob."""
    for image in layout.members(entry):
        check_image(layout, image)
    for artifact in attached_to(layout, entry):
        _check_blobs(layout, artifact.blobs)


def check_image(layout: Layout, image: Image) -> None:
    """Read every byte of an image; ImageError names the first blob that is missing or damaged."""
    _check_blobs(layout, image.blobs)


def _check_blobs(layout: Layout, blobs: Sequence[Descriptor]) -> None:
    for blob in blobs:
        size = 0
        with layout.blobs.open(blob.digest) as file:
            while chunk := file.read(CHUNK):
                size += len(chunk)
        if size != blob.size:
            raise ImageError(
                f"blob {blob.digest} has {size} bytes, and should have {blob.size}",
                remedy="Do not use this image: build or pull it again.",
            )


def check_index(layout: Layout) -> None:
    """Hold the index against what it lists; ImageError at the first entry that is not what its document says."""
    marker_path = layout.path / "oci-layout"
    with store_errors(marker_path):
        marker = marker_path.read_bytes()
    if wire.decode(marker, dict[str, Any], str(marker_path)).get("imageLayoutVersion") != "1.0.0":
        raise _changed(layout, "the version of the layout")
    index_path = layout.path / "index.json"
    with store_errors(index_path):
        index = wire.decode(index_path.read_bytes(), dict[str, Any], str(index_path))
    if (index.get("schemaVersion"), index.get("mediaType", media.OCI_INDEX)) != (2, media.OCI_INDEX):
        raise _changed(layout, "its version or its type")
    if unknown := index.keys() - {"schemaVersion", "mediaType", "manifests"}:
        raise _changed(layout, f"the field {min(unknown)!r}")
    for entry in layout.entries():
        _check_entry(layout, entry)


def _check_entry(layout: Layout, entry: Descriptor) -> None:
    if entry.media_type not in media.MANIFESTS | media.INDEXES:
        raise _changed(layout, f"the type of {entry.digest}")
    if len(layout.blobs.read(entry.digest)) != entry.size:
        raise _changed(layout, f"the size of {entry.digest}")
    artifact = layout.artifact(entry)
    if artifact is not None:
        if artifact.manifest != entry or dict(artifact.annotations) != dict(entry.annotations):
            raise _changed(layout, f"what it says of artifact {entry.digest}")
        return
    if set(entry.annotations) - {REF_NAME} or entry.artifact_type:
        raise _changed(layout, f"what it says of image {entry.digest}")
    if entry.media_type in media.MANIFESTS:
        told = layout.load(replace(entry, annotations={})).config.platform
        if entry.platform not in (None, told):
            raise _changed(layout, f"the platform of image {entry.digest}")


def _changed(layout: Layout, what: str) -> ImageError:
    return ImageError(
        f"the index of {layout.path} was changed: {what} is wrong",
        remedy="Fetch the image again, or restore the store from a copy.",
    )
