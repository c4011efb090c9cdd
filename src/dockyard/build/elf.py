"""Reads what a shared library or program needs and offers: the facts behind the preflight.

Only the dynamic section and the version needs of an ELF file are read (System V gABI, chapter 5; GNU symbol
versioning): every build imports this module, and a full ELF library costs it a tenth of a second. Called by
`debian_base`, `foreign` and `dependencies` when a layer is made; `preflight` judges.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_STRTAB, _DT_SONAME = 1, 5, 14
_DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
_EXTENSION_MODULE = re.compile(r"\.(cpython-\d+[^/]*|abi3)\.so$")


@dataclass(frozen=True)
class ElfFile:
    """One file of an image: path, the sonames it needs, the newest glibc version whose symbols it uses, its soname."""

    path: str
    needs: tuple[str, ...]
    glibc: tuple[int, ...] = ()
    soname: str = ""

    @property
    def is_extension_module(self) -> bool:
        """Whether Python loads this file on an import."""
        return bool(_EXTENSION_MODULE.search(self.path))


@dataclass(frozen=True)
class ElfFacts:
    """The ELF files of a layer, and the names under which its libraries can be found."""

    files: tuple[ElfFile, ...] = ()
    offers: tuple[str, ...] = ()


def read_facts(folder: Path, inside: str, names: Iterable[str] | None = None, *, everything: bool = True) -> ElfFacts:
    """The facts of all ELF files below `folder`, which is `inside` in the image; or of those in `names` alone.

    With `everything` false only the names on offer are gathered: a base that Debian has put together needs no check.
    """
    files: list[ElfFile] = []
    offers: set[str] = set()
    paths = folder.rglob("*") if names is None else (folder / name for name in names)
    for path in sorted(paths):
        if ".so" not in path.name or path.is_dir():
            continue
        offers.add(path.name)
        if everything and not path.is_symlink() and (file := _read(path)):
            offers.update({file.soname} - {""})
            files.append(replace(file, path=f"{inside}/{path.relative_to(folder).as_posix()}"))
    return ElfFacts(tuple(files), tuple(sorted(offers)))


def _read(path: Path) -> ElfFile | None:
    """What one file says of itself, its path left as it is; None if it is no ELF file or a damaged one."""
    with path.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as image:
            try:
                return _Reader(image).file(str(path))
            except (struct.error, ValueError, IndexError):
                return None


class _Reader:
    """The dynamic section of a 64-bit little-endian ELF file: the only kind on amd64 and arm64."""

    _SEGMENT = struct.Struct("<IIQQQQQQ")
    _DYNAMIC = struct.Struct("<qQ")
    _NEED = struct.Struct("<HHIII")
    _NEED_VERSION = struct.Struct("<IHHII")

    def __init__(self, image: mmap.mmap) -> None:
        if image[4:6] != b"\x02\x01":
            raise ValueError("not a 64-bit little-endian file")
        self._image = image
        offset, size, count = *struct.unpack_from("<Q", image, 32), *struct.unpack_from("<HH", image, 54)
        self._segments = [self._SEGMENT.unpack_from(image, offset + size * number) for number in range(count)]
        self._tags: dict[int, list[int]] = {}
        for kind, _, start, _, _, length, _, _ in self._segments:
            if kind == _PT_DYNAMIC:
                for tag, value in self._DYNAMIC.iter_unpack(image[start : start + length - length % 16]):
                    self._tags.setdefault(tag, []).append(value)
                    if tag == 0:
                        break

    def file(self, path: str) -> ElfFile:
        """Needed sonames, own soname and newest glibc version."""
        needs = tuple(sorted(self._string(value) for value in self._tags.get(_DT_NEEDED, ())))
        soname = next((self._string(value) for value in self._tags.get(_DT_SONAME, ())), "")
        return ElfFile(path, needs, max(self._glibc(), default=()), soname)

    def _string(self, offset: int) -> str:
        start = self._offset(self._tags[_DT_STRTAB][0]) + offset
        return self._image[start : self._image.find(b"\0", start)].decode()

    def _offset(self, address: int) -> int:
        """Where in the file a virtual address is."""
        for kind, _, start, virtual, _, length, _, _ in self._segments:
            if kind == _PT_LOAD and virtual <= address < virtual + length:
                return int(start + address - virtual)
        raise ValueError(f"address {address:#x} is in no segment")

    def _glibc(self) -> Iterator[tuple[int, ...]]:
        """The GLIBC_* versions among the symbol versions that are needed."""
        at = self._offset(self._tags[_DT_VERNEED][0]) if _DT_VERNEED in self._tags else 0
        for _ in range(self._tags.get(_DT_VERNEEDNUM, [0])[0]):
            _, count, _, auxiliary, following = self._NEED.unpack_from(self._image, at)
            inner = at + auxiliary
            for _ in range(count):
                _, _, _, name, step = self._NEED_VERSION.unpack_from(self._image, inner)
                if match := re.fullmatch(r"GLIBC_(\d+(?:\.\d+)+)", self._string(name)):
                    yield tuple(int(part) for part in match[1].split("."))
                inner += step
            at += following
