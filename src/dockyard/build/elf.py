"""Reads what a shared library or program needs and offers: the facts behind the preflight.

Only the dynamic section and the version needs of an ELF file are read (System V gABI; GNU symbol versioning), with
pyelftools. Called by `base` and `dependencies` when a layer is made; `preflight` judges.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

_EXTENSION_MODULE = re.compile(r"\.(cpython-\d+[^/]*|abi3)\.so$")


@dataclass(frozen=True)
class ElfFile:
    """One file of an image: path, the sonames it needs, and the newest glibc version whose symbols it uses."""

    path: str
    needs: tuple[str, ...]
    glibc: tuple[int, ...] = ()

    @property
    def is_extension_module(self) -> bool:
        """Whether Python loads this file on an import."""
        return bool(_EXTENSION_MODULE.search(self.path))


@dataclass(frozen=True)
class ElfFacts:
    """The ELF files of a layer, and the names under which its libraries can be found."""

    files: tuple[ElfFile, ...] = ()
    offers: tuple[str, ...] = ()


def read_facts(folder: Path, inside: str, *, everything: bool = True) -> ElfFacts:
    """The facts of all ELF files below `folder`, which is `inside` in the image.

    With `everything` false only the names on offer are gathered: a base that Debian has put together needs no check.
    """
    files, offers = [], set()
    for path in sorted(folder.rglob("*")):
        if ".so" not in path.name or path.is_dir():
            continue
        offers.add(path.name)
        if not everything or path.is_symlink() or not _is_elf(path):
            continue
        try:
            needs, glibc, soname = _read(path)
        except (ELFError, OSError, ValueError):
            continue
        offers.update(soname)
        files.append(ElfFile(f"{inside}/{path.relative_to(folder).as_posix()}", tuple(sorted(needs)), glibc))
    return ElfFacts(tuple(files), tuple(sorted(offers)))


def _is_elf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _read(path: Path) -> tuple[set[str], tuple[int, ...], set[str]]:
    """Needed sonames, newest GLIBC version needed, own soname."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        needs, soname = set(), set()
        dynamic = elf.get_section_by_name(".dynamic")
        if isinstance(dynamic, DynamicSection):
            for tag in dynamic.iter_tags():
                if tag.entry.d_tag == "DT_NEEDED":
                    needs.add(tag.needed)  # type: ignore[attr-defined]
                elif tag.entry.d_tag == "DT_SONAME":
                    soname.add(tag.soname)  # type: ignore[attr-defined]
        return needs, max(_glibc_versions(elf), default=()), soname


def _glibc_versions(elf: ELFFile) -> Iterator[tuple[int, ...]]:
    section = elf.get_section_by_name(".gnu.version_r")
    if isinstance(section, GNUVerNeedSection):
        for _, versions in section.iter_versions():
            for version in versions:
                if match := re.fullmatch(r"GLIBC_(\d+(?:\.\d+)+)", version.name):
                    yield tuple(int(part) for part in match[1].split("."))
