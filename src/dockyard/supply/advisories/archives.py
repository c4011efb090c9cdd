"""The JSON files in a zip of advisories, one after the other, as if an enemy had packed it.

Nothing is written: each file is read into memory, up to a limit. Files, bytes in all and the ratio of bytes out to
bytes in are capped, and so is the list of files at the zip's end, which must be held whole. Called by `importing`.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from dockyard.errors import AdvisoryError
from dockyard.oci.meter import Limits

LIMITS = Limits(entries=500_000, bytes=16 << 30, ratio=100)
FILE_LIMIT = 16 << 20  # bytes of one record
_LIST_LIMIT = 64 << 20  # bytes of a zip's list of files
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True)
class _Careful:
    """A file that is never read in one piece that is larger than a zip's list of files may be."""

    file: BinaryIO

    def read(self, size: int = -1) -> bytes:
        if size > _LIST_LIMIT:
            raise zipfile.BadZipFile(f"its list of files has {size} bytes, more than {_LIST_LIMIT}")
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.file.close()


def json_files(path: Path, limits: Limits = LIMITS) -> Iterator[tuple[str, bytes]]:
    """The name and the content of each `.json` file in a zip. AdvisoryError when it is damaged or beyond a limit."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(cast(BinaryIO, _Careful(file))) as archive:
            listed = archive.infolist()
            if len(listed) > limits.entries:
                raise zipfile.BadZipFile(f"it has {len(listed)} files, more than {limits.entries}")
            total, packed = 0, path.stat().st_size
            for entry in listed:
                if entry.is_dir() or not entry.filename.endswith(".json"):
                    continue
                data = _content(archive, entry)
                total += len(data)
                if total > limits.bytes:
                    raise zipfile.BadZipFile(f"it unpacks to more than {limits.bytes} bytes")
                if total > max(limits.ratio_from, limits.ratio * packed):
                    raise zipfile.BadZipFile(f"it unpacks to more than {limits.ratio} bytes for each byte of it")
                yield entry.filename, data
    except _DAMAGE as error:
        raise AdvisoryError(
            f"{path} cannot be read as a zip of advisories: {error}",
            remedy="Fetch the file again from a place that you trust; what was imported before stays.",
        ) from error


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as stream:
        data = stream.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            raise zipfile.BadZipFile(f"{entry.filename!r} has more than {FILE_LIMIT} bytes")
        return data
