"""Limits on what comes out of a compressed stream, so that a small file cannot fill a disk.

`unpack.py` reads layers and `archive.py` image archives through a `Meter`, which also takes the digest.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import BinaryIO, cast

from dockyard.errors import ImageError
from dockyard.oci.codecs import decompressed
from dockyard.oci.digest import Digest
from dockyard.oci.media import Codec


@dataclass(frozen=True)
class Limits:
    """Caps on one archive: entries, bytes of its tar, and bytes out for each byte in once over `ratio_from` bytes."""

    entries: int = 500_000
    bytes: int = 64 << 30
    ratio: int = 200
    ratio_from: int = 64 << 20


class Meter(io.RawIOBase):
    """The plain bytes of a compressed stream, hashed and counted; reading raises ImageError beyond the limits."""

    def __init__(self, stream: BinaryIO, codec: Codec, limits: Limits, what: str) -> None:
        super().__init__()
        self._compressed = _Counted(stream)
        self._plain = decompressed(cast(BinaryIO, self._compressed), codec, what)
        self._limits = limits
        self._what = what
        self._hash = hashlib.sha256()
        self._total = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill the buffer with plain bytes; 0 at the end."""
        chunk = self._plain.read(len(buffer))
        self._hash.update(chunk)
        self._total += len(chunk)
        if self._total > self._limits.bytes:
            raise self._too_much(f"more than {self._limits.bytes} bytes")
        if self._total > max(self._limits.ratio_from, self._limits.ratio * self._compressed.count):
            raise self._too_much(f"more than {self._limits.ratio} bytes for each byte of it")
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def verify(self, diff_id: Digest) -> None:
        """ImageError when the bytes that were read do not have this digest."""
        found = f"sha256:{self._hash.hexdigest()}"
        if found != diff_id:
            raise ImageError(
                f"{self._what} is not what its image names: unpacked it has digest {found}",
                remedy="Do not use this image; build it or pull it again from a source that you trust.",
            )

    def _too_much(self, found: str) -> ImageError:
        return ImageError(
            f"{self._what} unpacks to {found}", remedy="If you trust the image, raise the limit for unpacking."
        )


class _Counted(io.RawIOBase):
    """Counts the bytes that pass."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        return data
