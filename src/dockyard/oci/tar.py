"""Reading tar archives that nobody vouches for: strictly forward, with flat memory.

`unpack.py` and `archive.py` read layers and image archives through this. The standard library parses each header block;
what follows headers is read here, because its reader holds a pax header of any size in memory and takes a damaged
header for the end. Formats: POSIX.1-1988 ustar, POSIX.1-2001 pax, GNU long names; GNU sparse files are refused.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from dockyard.errors import ImageError

MemberKind = Literal["file", "folder", "link", "hardlink", "special"]

_BLOCK = 512
_CHUNK = 1 << 20
_EXTENSION_LIMIT = 1 << 20
_EXTENSIONS_IN_A_ROW = 8
_PAX = tarfile.XHDTYPE
_PAX_GLOBAL = tarfile.XGLTYPE
_LONG_NAME = tarfile.GNUTYPE_LONGNAME
_LONG_LINK = tarfile.GNUTYPE_LONGLINK
_KINDS: dict[bytes, MemberKind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hardlink",
    tarfile.CHRTYPE: "special",
    tarfile.BLKTYPE: "special",
    tarfile.FIFOTYPE: "special",
}


@dataclass(frozen=True)
class Member:
    """One entry of an archive; its names are as they stand there, so not to be trusted. `size` is in bytes."""

    name: str
    kind: MemberKind
    mode: int
    size: int
    target: str
    mtime: int


class TarReader:
    """Iterate over the members; `content()` gives the bytes of the current one, which may be left unread.

    Everything that is wrong with the archive, such as more than `entries` members, is an ImageError that begins with
    `what`.
    """

    def __init__(self, stream: BinaryIO, what: str, entries: int) -> None:
        self._stream = stream
        self._what = what
        self._entries = entries
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        count = 0
        while (member := self._next()) is not None:
            count += 1
            if count > self._entries:
                raise ImageError(
                    f"{self._what} is unsafe: it has more than the {self._entries} entries allowed",
                    remedy="Do not use it, and find out where it came from.",
                )
            yield member
        while self._stream.read(_CHUNK):
            pass

    def content(self) -> Iterator[bytes]:
        """What is left of the current member, in pieces of at most 1 MiB."""
        while self._left:
            chunk = self._stream.read(min(self._left, _CHUNK))
            if not chunk:
                raise self._error("it is cut off")
            self._left -= len(chunk)
            yield chunk

    def _next(self) -> Member | None:
        extended: dict[str, str] = {}
        for _ in range(_EXTENSIONS_IN_A_ROW):
            self._skip()
            header = self._header()
            if header is None:
                return None
            if header.type not in {_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK}:
                return self._member(header, extended)
            extended |= self._extension(header)
        raise self._error("too many extended headers in a row")

    def _skip(self) -> None:
        for _ in self.content():
            pass
        if len(self._stream.read(self._padding)) != self._padding:
            raise self._error("it is cut off")
        self._padding = 0

    def _header(self) -> tarfile.TarInfo | None:
        block = self._stream.read(_BLOCK)
        if not block:
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if len(block) == _BLOCK and not any(block):
                return None
            raise self._error(f"it holds a header that is none: {error}") from error

    def _member(self, header: tarfile.TarInfo, extended: dict[str, str]) -> Member:
        kind = _KINDS.get(header.type)
        if kind is None or any(key.startswith("GNU.sparse") for key in extended):
            raise self._error(f"{header.name[:100]!r} is of a kind that layers do not have (type {header.type!r})")
        size = self._number(extended.get("size", str(header.size)))
        name = extended.get("path", header.name)
        if kind == "file" and name.endswith("/"):
            kind = "folder"
        self._expect(size if kind == "file" else 0)
        return Member(
            name=name,
            kind=kind,
            mode=header.mode,
            size=self._left,
            target=extended.get("linkpath", header.linkname),
            mtime=max(0, int(header.mtime)),
        )

    def _extension(self, header: tarfile.TarInfo) -> dict[str, str]:
        """What an extended header says of the next member."""
        if header.size > _EXTENSION_LIMIT:
            raise self._error(f"it has an extended header of {header.size} bytes")
        self._expect(header.size)
        data = b"".join(self.content())
        if header.type == _LONG_NAME:
            return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
        if header.type == _LONG_LINK:
            return {"linkpath": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
        return self._pax_records(data) if header.type == _PAX else {}

    def _pax_records(self, data: bytes) -> dict[str, str]:
        """Records of the form `<length> <key>=<value>\\n`, where the length counts the whole record."""
        records: dict[str, str] = {}
        position = 0
        while position < len(data) and data[position]:
            space = data.find(b" ", position, position + 20)
            length = self._number(data[position:space].decode("ascii", "replace")) if space > 0 else 0
            record = data[space + 1 : position + length]
            key, equals, value = record.partition(b"=")
            if length <= 0 or position + length > len(data) or not equals or not value.endswith(b"\n"):
                raise self._error("it has an extended header that cannot be read")
            records[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
            position += length
        return records

    def _expect(self, size: int) -> None:
        self._left = size
        self._padding = -size % _BLOCK

    def _number(self, text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise self._error(f"{text[:40]!r} is not a size")
        return int(text)

    def _error(self, why: str) -> ImageError:
        return ImageError(f"{self._what} is damaged or unsafe: {why}", remedy="Build or pull the image again.")
