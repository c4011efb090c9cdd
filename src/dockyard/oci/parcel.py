"""A parcel: an image on its way into another store, with all that is attached to it, blob by blob.

The sender makes one (`Parcel.of`) and asks which blobs the other side lacks; the other side takes it in only once every
blob is there (`take_in`). `dockyard deploy` sends one to a yard elsewhere, and `yard.receiving` takes it. Bundles carry
the same as one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dockyard.errors import ImageError
from dockyard.oci import media
from dockyard.oci.artifact import Artifact
from dockyard.oci.digest import Digest
from dockyard.oci.image import Descriptor, Image
from dockyard.oci.layout import Layout, artifacts_of


@dataclass(frozen=True)
class Parcel:
    """An image, and what is attached to it: signatures, documents, results of tests."""

    image: Image
    artifacts: tuple[Artifact, ...]

    @classmethod
    def of(cls, layout: Layout, digest: Digest) -> Parcel:
        """The image of a manifest's digest; ImageNotFoundError when the layout has none."""
        image = layout.resolve(digest)
        return cls(image, artifacts_of(layout, image.digest))

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All that it consists of, each blob once; what refers to others comes after them."""
        attached = (blob for artifact in self.artifacts for blob in artifact.blobs)
        return tuple({blob.digest: blob for blob in (*self.image.blobs, *attached)}.values())


def lacking(layout: Layout, digests: Iterable[Digest]) -> tuple[Digest, ...]:
    """Those that are not in the layout, each once; the others are kept from being swept for a while."""
    return tuple(digest for digest in dict.fromkeys(digests) if not layout.blobs.keep(digest))


def knows(layout: Layout, manifest: Digest, artifacts: Sequence[Digest]) -> bool:
    """Whether a layout holds this image under some name, and lists these artifacts."""
    entries = layout.entries()
    held = {image.digest for image in layout.manifests(entries)} | {entry.digest for entry in entries}
    return held >= {manifest, *artifacts}


def take_in(layout: Layout, manifest: Descriptor, artifacts: Sequence[Descriptor], name: str) -> Parcel:
    """Give an image whose blobs have arrived a name, and list what is attached to it.

    ImageError when it is no image, a blob is missing, or an artifact is about something else; then nothing changes.
    """
    if manifest.media_type not in media.MANIFESTS:
        raise ImageError(f"{manifest.media_type[:100]!r} is no manifest of one image", remedy="Send an image.")
    absent = lacking(layout, [manifest.digest, *(one.digest for one in artifacts)])
    if absent:
        raise ImageError(f"{absent[0]} has not arrived", remedy="Send it again.")
    image = layout.load(manifest)
    found = tuple(Artifact.decode(one, layout.blobs.read(one.digest)) for one in artifacts)
    subjects = {image.digest, *(one.digest for one in found)}
    for one in found:
        if one.subject.digest not in subjects:
            raise ImageError(
                f"artifact {one.digest} is about {one.subject.digest}, which is not sent with it",
                remedy="Send it with the image that it is about.",
            )
    absent = lacking(layout, (blob.digest for blob in Parcel(image, found).blobs))
    if absent:
        raise ImageError(f"{absent[0]}, which {name} needs, has not arrived", remedy="Send it again.")
    layout.add(image, name)
    layout.adopt(*found)
    return Parcel(image, found)
