"""An image on its way to a yard elsewhere: only what that lacks is sent, with the signatures and documents about it.

`deploy` calls it before it asks for a rollout. The yard of this very home has the same store, so nothing is sent to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import click

from dockyard.build.progress import Task
from dockyard.cli import places, progress
from dockyard.client import Client
from dockyard.errors import ImageNotFoundError
from dockyard.oci.digest import CHUNK, Digest
from dockyard.oci.image import Descriptor, Platform
from dockyard.oci.layout import Layout
from dockyard.oci.parcel import Parcel
from dockyard.spec.requests import BlobOffer, ImageOffer
from dockyard.spec.resources import format_bytes


def shares_store(yard: Client) -> bool:
    """Whether a yard is that of this home, and works with the same image store."""
    return yard.address.socket == str(places.home().yard_socket)


async def platform_of(yard: Client) -> Platform | None:
    """What a yard elsewhere runs images for; None where that is this machine's."""
    told = "" if shares_store(yard) else (await yard.info()).platform
    return Platform.parse(told) if told else None


async def send(yard: Client, image: str, why: str) -> None:
    """Give a yard an image, `NAME@sha256:...`, unless it has it. What is not in the store here is left to the yard."""
    if shares_store(yard):
        return
    name, _, digest = image.partition("@")
    layout = places.store()
    try:
        parcel = Parcel.of(layout, Digest(digest))
    except ImageNotFoundError:
        return
    offer = offer_of(parcel, name, why)
    wanted = await yard.image_wanted(offer)
    if wanted.known:
        return
    lacking = [blob for blob in parcel.blobs if blob.digest in set(wanted.blobs)]
    await _send_blobs(yard, layout, parcel, lacking, name)
    await yard.send_image(offer)


def offer_of(parcel: Parcel, name: str, why: str = "") -> ImageOffer:
    """What a yard is told of an image before it is sent."""
    return ImageOffer(
        image=name,
        media_type=parcel.image.manifest.media_type,
        manifest=_offered(parcel.image.manifest),
        artifacts=tuple(_offered(one.manifest) for one in parcel.artifacts),
        blobs=tuple(map(_offered, parcel.blobs)),
        why=why,
    )


async def _send_blobs(yard: Client, layout: Layout, parcel: Parcel, lacking: list[Descriptor], name: str) -> None:
    missing, whole = (sum(blob.size for blob in blobs) for blobs in (lacking, parcel.blobs))
    if not lacking:
        return
    amount = f"{format_bytes(missing)} of {format_bytes(whole)}"
    click.echo(f"sending {name} to {yard.address.url}: {amount}, {len(lacking)} of {len(parcel.blobs)} blobs", err=True)
    with progress.shown() as bars, bars.task(f"sent {name}, {amount}", missing) as task:
        for blob in lacking:
            await yard.send_blob(_offered(blob), _pieces(layout, blob.digest, task))


async def _pieces(layout: Layout, digest: Digest, task: Task) -> AsyncIterator[bytes]:
    with layout.blobs.open(digest) as file:
        while piece := file.read(CHUNK):
            yield piece
            task.advance(len(piece))


def _offered(blob: Descriptor) -> BlobOffer:
    return BlobOffer(digest=blob.digest, size=blob.size)
