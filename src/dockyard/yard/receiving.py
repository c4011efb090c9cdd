"""Images that callers elsewhere send: which blobs are lacking, each blob as it comes, and the image once all are here.

A blob is in the store only when its last byte has come and its digest is right, and an image has a name only when it is
whole; so a connection that breaks leaves nothing half done, and the next try sends what is still lacking. The name is
one of the yard's own, out of the way of those that people gave on this host; a revision then keeps the image, and
`pruning` takes what no revision came for. `service` offers it to the API.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator

from dockyard.errors import ImageError, StoreError
from dockyard.oci import media
from dockyard.oci.blobs import BlobWriter
from dockyard.oci.digest import Digest
from dockyard.oci.files import store_errors
from dockyard.oci.image import Descriptor
from dockyard.oci.parcel import knows, lacking, take_in
from dockyard.spec.requests import BlobOffer, ImageOffer
from dockyard.spec.resources import format_bytes
from dockyard.spec.status import ImageTaken, ImageWanted
from dockyard.yard.audit import Entry, Outcome
from dockyard.yard.naming import received_name
from dockyard.yard.operations import Cause
from dockyard.yard.parts import Parts

IMAGE_LIMIT = 256 << 30
"""Bytes that one image may have, with all that is attached to it."""
_SPARED = 64 << 20
_PIECE = 1 << 20


class Receiving:
    """The operations about images that are sent."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._images = parts.host.images

    async def image_wanted(self, offer: ImageOffer) -> ImageWanted:
        """Which blobs are lacking; StoreError when they do not fit, ImageError when nobody sends so much."""
        sizes = {Digest(blob.digest): blob.size for blob in offer.blobs}
        missing = await asyncio.to_thread(lacking, self._images, sizes)
        self._check_room(offer, sum(sizes.values()), sum(sizes[digest] for digest in missing))
        artifacts = [Digest(one.digest) for one in offer.artifacts]
        known = not missing and await asyncio.to_thread(knows, self._images, Digest(offer.manifest.digest), artifacts)
        return ImageWanted(blobs=missing, known=known)

    def _check_room(self, offer: ImageOffer, whole: int, missing: int) -> None:
        if whole > IMAGE_LIMIT:
            raise ImageError(
                f"{offer.image} has {format_bytes(whole)}, and a yard takes at most {format_bytes(IMAGE_LIMIT)}",
                remedy="Copy it to the yard's host yourself: `dockyard export` and `dockyard import`.",
            )
        with store_errors(self._images.path):
            free = shutil.disk_usage(self._images.path).free
        if missing and missing + _SPARED > free:
            raise StoreError(
                f"{offer.image} needs {format_bytes(missing)} more, and the disk that holds {self._images.path} on the "
                f"yard's host has {format_bytes(free)} left",
                remedy="Free some space there (`dockyard gc` removes what no image needs), then deploy again.",
            )

    async def receive_blob(self, blob: BlobOffer, parts: AsyncIterator[bytes], cause: Cause) -> ImageTaken:
        """Keep a blob whose bytes these are; flat memory, and the disk's work in another thread."""
        waiting = bytearray()
        writer = await asyncio.to_thread(self._images.blobs.writer)
        with writer:
            async for part in parts:
                waiting += part
                if writer.size + len(waiting) > blob.size:
                    raise self._refused(blob, f"more than the {blob.size} bytes that were announced came", cause)
                if len(waiting) >= _PIECE:
                    await asyncio.to_thread(writer.write, waiting)
                    waiting = bytearray()
            await asyncio.to_thread(writer.write, waiting)
            await self._commit(writer, blob, cause)
        return ImageTaken(digest=blob.digest, size=writer.size)

    async def _commit(self, writer: BlobWriter, blob: BlobOffer, cause: Cause) -> None:
        if writer.size != blob.size:
            raise self._refused(blob, f"{writer.size} bytes came, and {blob.size} were announced", cause)
        try:
            await asyncio.to_thread(writer.commit, Digest(blob.digest))
        except ImageError as error:
            raise self._refused(blob, error.what, cause) from error

    def _refused(self, blob: BlobOffer, what: str, cause: Cause) -> ImageError:
        self._parts.audit.append(Entry(cause.actor.name, "image.receive", blob.digest, Outcome.REFUSED, what))
        return ImageError(f"blob {blob.digest}: {what}", remedy="Send it again, or else build the image again.")

    async def receive_image(self, offer: ImageOffer, cause: Cause) -> ImageTaken:
        """Take in an image whose blobs are all here, with an entry in the audit log."""
        manifest = _descriptor(offer.manifest, offer.media_type)
        artifacts = [_descriptor(one, media.OCI_MANIFEST) for one in offer.artifacts]
        name = received_name(manifest.digest)
        taken = await asyncio.to_thread(take_in, self._images, manifest, artifacts, name)
        after = {"digest": taken.image.digest, "artifacts": [one.digest for one in taken.artifacts]}
        self._parts.audit.append(Entry(cause.actor.name, "image.receive", offer.image, why=cause.why, after=after))
        return ImageTaken(digest=taken.image.digest, size=sum(blob.size for blob in taken.blobs))


def _descriptor(blob: BlobOffer, media_type: str) -> Descriptor:
    return Descriptor(media_type, Digest(blob.digest), blob.size)
