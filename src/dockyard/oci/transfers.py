"""One blob on its way from or to a registry: what breaks off goes on where it stopped.

`registry.py` decides what to move; this moves it, with flat memory whatever the size. A download asks for the rest
(RFC 9110 ranges); an upload from 64 MiB on goes in pieces, and after a failure asks how much has arrived. A blob that
another repository of the registry has is mounted, not sent. Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

import re
from typing import BinaryIO
from urllib.parse import quote

from dockyard.errors import RegistryError
from dockyard.oci.blobs import BlobWriter
from dockyard.oci.digest import CHUNK
from dockyard.oci.image import Descriptor
from dockyard.oci.layout import Layout
from dockyard.oci.origins import Origins
from dockyard.oci.transport import TransientError, Transport

PIECES_FROM = 64 << 20
PIECE = 16 << 20
_RANGE = re.compile(r"(?:bytes[ =])?0-(\d+)")


def fetch_blob(transport: Transport, layout: Layout, blob: Descriptor) -> None:
    """Bring one blob into the layout unless it is there; each byte is verified."""
    if layout.blobs.has(blob.digest):
        return
    with layout.blobs.writer() as writer:
        transport.patiently(lambda: _fetch_rest(transport, writer, blob))
        if writer.digest != blob.digest:
            raise transport.refused(f"served blob {blob.digest} with bytes of digest {writer.digest}")
        writer.commit(blob.digest)


def _fetch_rest(transport: Transport, writer: BlobWriter, blob: Descriptor) -> None:
    """Fetch what is missing; a registry that knows no ranges sends all again, and what is there is skipped."""
    if writer.size == blob.size and blob.size:
        return
    skip = 0
    response = transport.get_from(f"blobs/{blob.digest}", writer.size)
    if response.status == 200:
        skip = writer.size
    for chunk in transport.body(response):
        fresh = chunk[skip:] if skip else chunk
        skip -= min(skip, len(chunk))
        writer.write(fresh)
        if writer.size > blob.size:
            raise transport.refused(f"served more than the {blob.size} bytes of blob {blob.digest}")


def send_blob(transport: Transport, layout: Layout, blob: Descriptor, origins: Origins) -> bool:
    """Send one blob unless the registry has it; whether its bytes were sent."""
    return transport.patiently(_Upload(transport, layout, blob, origins).attempt)


class _Upload:
    """One upload, and how far it has come."""

    def __init__(self, transport: Transport, layout: Layout, blob: Descriptor, origins: Origins) -> None:
        self._transport = transport
        self._layout = layout
        self._blob = blob
        self._origins = origins
        self._place = ""
        self._arrived = 0

    def attempt(self) -> bool:
        """Begin, or go on; False when there was nothing to send."""
        if self._place:
            self._ask()
        if not self._place and not self._begin():
            return False
        if self._blob.size < PIECES_FROM:
            self._whole()
        else:
            self._pieces()
        return True

    def _begin(self) -> bool:
        transport, digest = self._transport, self._blob.digest
        if transport.exists(f"blobs/{digest}"):
            return False
        origin = self._origins.find(transport.registry, digest, but=transport.repository)
        path = f"blobs/uploads/?mount={digest}&from={quote(origin)}" if origin else "blobs/uploads/"
        response = transport.send("POST", path, None, {"Content-Length": "0"}, (201, 202))
        if response.status == 201:
            return False
        self._place, self._arrived = transport.location(response), 0
        return True

    def _whole(self) -> None:
        place, self._place = self._place, ""  # an upload in one request cannot be taken up again
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(self._blob.size)}
        with self._layout.blobs.open(self._blob.digest) as file:
            self._transport.send("PUT", self._closing(place), file, headers, (201,))

    def _pieces(self) -> None:
        with self._layout.blobs.open(self._blob.digest) as file:
            _skip(file, self._arrived)
            while piece := _read(file, PIECE):
                last = self._arrived + len(piece) - 1
                headers = {
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(len(piece)),
                    "Content-Range": f"{self._arrived}-{last}",
                }
                self._place = self._transport.location(
                    self._transport.send("PATCH", self._place, piece, headers, (202,))
                )
                self._arrived = last + 1
        self._transport.send("PUT", self._closing(self._place), b"", {"Content-Length": "0"}, (201,))

    def _ask(self) -> None:
        """How much has arrived; nothing, from a new place, when the registry has forgotten the upload."""
        try:
            response = self._transport.send("GET", self._place, None, {}, (204,))
        except TransientError:
            raise
        except RegistryError:
            self._place = ""
            return
        found = _RANGE.fullmatch(response.headers.get("Range", ""))
        self._arrived = int(found[1]) + 1 if found and found[1] != "0" else 0
        if "Location" in response.headers:
            self._place = self._transport.location(response)

    def _closing(self, place: str) -> str:
        return f"{place}{'&' if '?' in place else '?'}digest={self._blob.digest}"


def _skip(file: BinaryIO, count: int) -> None:
    while count:
        count -= len(file.read(min(count, CHUNK)))


def _read(file: BinaryIO, size: int) -> bytes:
    """Exactly so many bytes, or what is left."""
    data = bytearray()
    while len(data) < size and (chunk := file.read(min(CHUNK, size - len(data)))):
        data += chunk
    return bytes(data)
