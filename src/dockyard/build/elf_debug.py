"""Blanks what an ELF file carries for debuggers alone, without moving a byte of anything else.

Symbol tables for debuggers and DWARF take up to four fifths of an extension module, and no loader reads them. They are
overwritten with zeros, which packs to nothing; offsets stay as they are, so it is safe where `strip` is not (libraries
that were patched after linking). Called by `trim`. Source: System V gABI, chapter 4 (sections, SHF_ALLOC).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_HEADER = struct.Struct("<IIQQQQIIQQ")
_NOTHING_IN_FILE = 8  # SHT_NOBITS
_LOADED = 2  # SHF_ALLOC
_SYMBOLS = (b".symtab", b".strtab")


def without_debug(content: bytes) -> bytes | None:
    """The file with its debug sections blank; None when there are none, or it is no 64-bit little-endian ELF file."""
    if content[:6] != b"\x7fELF\x02\x01":
        return None
    try:
        spans = list(_debug_spans(content))
    except (struct.error, ValueError, IndexError):
        return None
    blank = bytearray(content)
    for start, size in spans:
        blank[start : start + size] = bytes(size)
    return bytes(blank) if blank != content else None


def _debug_spans(content: bytes) -> Iterator[tuple[int, int]]:
    """Offset and size of each section for debuggers; ValueError when one lies outside the file or in what is loaded."""
    table, size, count, names = *struct.unpack_from("<Q", content, 40), *struct.unpack_from("<HHH", content, 58)
    if size != _HEADER.size:
        raise ValueError("section headers of an unknown size")
    sections = [_HEADER.unpack_from(content, table + size * number) for number in range(count)]
    loaded = _loaded_spans(content)
    for number, (title, kind, flags, _, start, length, *_) in enumerate(sections):
        at = sections[names][4] + title
        name = content[at : content.index(b"\0", at)]
        is_debug = number != names and (name.startswith(b".debug_") or name in _SYMBOLS)
        if not is_debug or flags & _LOADED or kind == _NOTHING_IN_FILE:
            continue
        end = start + length
        if (end > table and start < table + size * count) or end > len(content):
            raise ValueError("a section overlaps the headers or the end")
        if any(start < upper and end > lower for lower, upper in loaded):
            raise ValueError("a section for debuggers is loaded")
        yield start, length


def _loaded_spans(content: bytes) -> list[tuple[int, int]]:
    """Where in the file the segments are that are mapped into memory."""
    offset, size, count = *struct.unpack_from("<Q", content, 32), *struct.unpack_from("<HH", content, 54)
    segments = [struct.unpack_from("<IIQQQQQQ", content, offset + size * number) for number in range(count)]
    return [(start, start + length) for kind, _, start, _, _, length, *_ in segments if kind == 1]
