"""Digests, the names of content: `sha256:` and 64 lower-case hexadecimal digits.

Blobs, manifests, image IDs and layers are all named this way. Everything in `dockyard.oci` goes through here, so that
a string from outside becomes a `Digest` only after it was checked. SHA-256 is the only algorithm that is accepted.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NewType

from dockyard.errors import ImageError
from dockyard.oci.files import store_errors

Digest = NewType("Digest", str)

CHUNK = 1 << 20
_PATTERN = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def digest_of(data: bytes | bytearray | memoryview) -> Digest:
    """The digest of some bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def parse_digest(text: str) -> Digest:
    """Check a digest from outside; ImageError when it is not `sha256:` and 64 hexadecimal digits."""
    if not _PATTERN.fullmatch(text):
        raise ImageError(
            f"{text[:100]!r} is not a digest", remedy="A digest is 'sha256:' and 64 lower-case hexadecimal digits."
        )
    return Digest(text)


def hex_of(digest: Digest) -> str:
    """The 64 hexadecimal digits, which are also a blob's file name."""
    return digest.removeprefix("sha256:")


def digest_of_file(path: Path) -> Digest:
    """The digest of a file, read in pieces; StoreError when it cannot be read."""
    running = hashlib.sha256()
    with store_errors(path), path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            running.update(chunk)
    return Digest("sha256:" + running.hexdigest())
