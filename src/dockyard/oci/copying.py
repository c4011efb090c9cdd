"""Copies images from one layout to another, with all that is attached to them; only what is missing there moves.

Every byte is verified on its way. Bundles, bases that are others' images, and the command line's `build --output` and
`import` call it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dockyard.oci.artifact import Artifact
from dockyard.oci.digest import CHUNK
from dockyard.oci.image import Descriptor, Image
from dockyard.oci.layout import Layout, artifacts_of


def copy_image(image: Image, source: Layout, target: Layout, name: str) -> None:
    """Copy what `target` lacks of an image, each byte verified, and name it there."""
    _copy_blobs(image.blobs, source, target)
    target.add(image, name)


def copy_entry(entry: Descriptor, source: Layout, target: Layout, name: str) -> None:
    """Copy an image, or an index with its images, and all that is attached to them, and name it in `target`."""
    for image in source.members(entry):
        _copy_blobs(image.blobs, source, target)
    _copy_blobs([entry], source, target)
    target.add_entry(entry, name)
    for artifact in attached_to(source, entry):
        _copy_blobs(artifact.blobs, source, target)
        target.adopt(artifact)


def _copy_blobs(blobs: Sequence[Descriptor], source: Layout, target: Layout) -> None:
    for blob in blobs:
        if target.blobs.has(blob.digest):
            continue
        with source.blobs.open(blob.digest) as file, target.blobs.writer() as writer:
            while chunk := file.read(CHUNK):
                writer.write(chunk)
            writer.commit(blob.digest)


def attached_to(layout: Layout, entry: Descriptor) -> tuple[Artifact, ...]:
    """All artifacts about an entry and the images in it."""
    subjects = dict.fromkeys([entry.digest, *(image.digest for image in layout.members(entry))])
    return tuple(artifact for subject in subjects for artifact in artifacts_of(layout, subject))
