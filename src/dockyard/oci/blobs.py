"""The blob store of an OCI layout: `blobs/sha256/<hex>`, each file named by its own digest.

Layers, configurations and manifests live here. A blob appears only when all its bytes are on the disk and its digest
is known; every way out verifies it again. Written by the builder, archives and registries; read by everyone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from dockyard.errors import ImageError, StoreError
from dockyard.oci.digest import CHUNK, Digest, digest_of, digest_of_file, hex_of, parse_digest
from dockyard.oci.files import PartialFile, as_store_error, store_errors
from dockyard.oci.media import DOCUMENT_LIMIT

PRIVATE = ".dockyard"


class Blobs:
    """The blobs of the layout at `root`."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "blobs" / "sha256"
        self.partials = root / PRIVATE / "partial"

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self.folder / hex_of(digest)

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here. Its bytes are verified when they are read."""
        return self.path(digest).is_file()

    def keep(self, digest: Digest) -> bool:
        """As `has`; a blob that is here counts as just written, so that no sweep takes it before an image needs it."""
        try:
            os.utime(self.path(digest))
        except OSError:
            return self.has(digest)
        return True

    def read(self, digest: Digest) -> bytes:
        """All bytes of a small blob (a document), verified; ImageError when missing, damaged or over 8 MiB."""
        with self.open(digest) as file:
            data = file.read(DOCUMENT_LIMIT)
            if file.read(1):
                raise ImageError(f"blob {digest} is too large to be a document", remedy="Fetch the image again.")
        return data

    def open(self, digest: Digest) -> BinaryIO:
        """A stream of the blob that raises ImageError at its end when the bytes do not have this digest."""
        try:
            file = self.path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise ImageError(
                f"blob {digest} is missing from {self.folder.parent.parent}",
                remedy="Build or pull the image again; what is there already is kept.",
            ) from None
        except OSError as error:
            raise as_store_error(error, self.path(digest)) from error
        return cast(BinaryIO, io.BufferedReader(_Verified(file, digest, self.path(digest)), CHUNK))

    def write(self, data: bytes) -> Digest:
        """Store a small blob (a document) and return its digest."""
        return self.write_all([data])[0]

    def write_all(self, documents: Sequence[bytes]) -> list[Digest]:
        """Store a few small blobs, which takes half the time of one after the other; their digests."""
        digests = [digest_of(data) for data in documents]
        different = dict(zip(digests, documents, strict=True))
        fresh = {digest: data for digest, data in different.items() if not self._holds(digest, data)}
        with contextlib.ExitStack() as stack:
            writers = [(digest, data, stack.enter_context(self.writer())) for digest, data in fresh.items()]
            for _, data, writer in writers:
                writer.write(data)
                writer.hasten()
            for digest, _, writer in writers:
                writer.commit(digest)
        return digests

    def _holds(self, digest: Digest, data: bytes) -> bool:
        try:
            return self.path(digest).read_bytes() == data
        except OSError:
            return False

    def writer(self) -> BlobWriter:
        """Stream a blob in: `with blobs.writer() as w: w.write(...); digest = w.commit()`."""
        return BlobWriter(self)

    def adopt(self, path: Path) -> Digest:
        """Move a finished file into the store, without copying it when it is on the same disk. The path is gone after.

        The file must not change any more.
        """
        digest = digest_of_file(path)
        with store_errors(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.rename(self.path(digest))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise as_store_error(error, path) from error
            self._copy_in(path, digest)
            path.unlink()
        return digest

    def borrow(self, other: Blobs) -> None:
        """Have every blob of another store here too, by hard links, or by copies where there can be none."""
        for digest in other:
            place = self.path(digest)
            with store_errors(place):
                try:
                    os.link(other.path(digest), place)
                except FileExistsError:
                    continue
                except OSError:
                    shutil.copyfile(other.path(digest), place)

    def _copy_in(self, path: Path, digest: Digest) -> None:
        with self.writer() as writer, path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                writer.write(chunk)
            writer.commit(digest)

    def __iter__(self) -> Iterator[Digest]:
        """Every digest in the store."""
        if not self.folder.is_dir():
            return
        with store_errors(self.folder):
            names = sorted(path.name for path in self.folder.iterdir())
        for name in names:
            with contextlib.suppress(ImageError):
                yield parse_digest("sha256:" + name)


class BlobWriter:
    """A blob on its way into the store. Without `commit` it leaves nothing behind."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._partial = PartialFile(blobs.partials)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; StoreError when the disk is full."""
        self._partial.write(data)
        self._hash.update(data)
        self.size += len(data)

    def hasten(self) -> None:
        """Have the system begin to write it to the disk; see `PartialFile.hasten`."""
        self._partial.hasten()

    @property
    def digest(self) -> Digest:
        """The digest of what was written so far."""
        return Digest("sha256:" + self._hash.hexdigest())

    def commit(self, expected: Digest | None = None) -> Digest:
        """Make it durable under its digest; ImageError, and nothing stored, when that is not the `expected` one.

        A blob of the same digest is replaced, which heals it if it was damaged.
        """
        digest = self.digest
        if expected is not None and digest != expected:
            raise ImageError(
                f"the bytes received have digest {digest}, expected was {expected}",
                remedy="The source is damaged or was tampered with: try another, or build the image again.",
            )
        self._partial.commit(self._blobs.path(digest))
        return digest

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._partial.discard()


class _Verified(io.RawIOBase):
    """A raw stream that hashes what passes, and compares at the end."""

    def __init__(self, file: io.FileIO, digest: Digest, path: Path) -> None:
        super().__init__()
        self._file = file
        self._digest = digest
        self._path = path
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        try:
            count = self._file.readinto(buffer)
        except OSError as error:
            raise as_store_error(error, self._path) from error
        if count is None:
            raise StoreError(f"{self._path} is not a regular file", remedy="Remove it, then build or pull again.")
        self._hash.update(memoryview(buffer)[:count])
        if count == 0 and len(buffer) and self._hash.hexdigest() != hex_of(self._digest):
            raise ImageError(
                f"blob {self._digest} is damaged: its bytes have digest sha256:{self._hash.hexdigest()}",
                remedy=f"Remove {self._path}, then build or pull the image again.",
            )
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
