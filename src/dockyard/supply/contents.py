"""What is inside an image, read out of its layers: Python distributions, Debian packages, the operating system.

Each layer is read once; what was found is kept by its digest, because a layer never changes. Works for any image, ours
or not; names and versions are those that package managers wrote there themselves. `sbom.py` and `diff` use it.
Sources: core metadata of PyPA, PEP 770 (sboms), dpkg's status format, machine-readable copyright files (DEP 5).
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from dockyard.oci.digest import Digest, hex_of
from dockyard.oci.files import replace_note
from dockyard.oci.image import Image, LayerBlob
from dockyard.oci.layout import Layout
from dockyard.oci.reading import reading_layer
from dockyard.oci.tar import Member, TarReader

_FORMAT = 1
_FILE_LIMIT = 4 << 20
_THREADS = 4
_NOTES = 128
_LICENSE = re.compile(r"^License:[ \t]*(\S[^\n]*)$", re.MULTILINE)
_SOURCE = re.compile(r"(?P<name>\S+)(?:\s+\((?P<version>[^)]+)\))?")


@dataclass(frozen=True)
class PythonPackage:
    """An installed distribution; `embedded` are the components that it says were built into it (PEP 770)."""

    name: str
    version: str
    license: str = ""
    embedded: tuple[Embedded, ...] = ()


@dataclass(frozen=True)
class Embedded:
    """A component inside a wheel, such as a Rust crate or a shared library."""

    name: str
    version: str
    purl: str = ""


@dataclass(frozen=True)
class SystemPackage:
    """A Debian package, with the source package that it was built from."""

    name: str
    version: str
    architecture: str
    source: str
    source_version: str
    licenses: tuple[str, ...] = ()


@dataclass(frozen=True)
class OperatingSystem:
    """What the image says that it is: `debian`, `12`."""

    name: str
    version: str
    title: str = ""


@dataclass(frozen=True)
class Contents:
    """Everything that was found, each list by name."""

    python: tuple[PythonPackage, ...] = ()
    system: tuple[SystemPackage, ...] = ()
    os: OperatingSystem | None = None


class _Record(msgspec.Struct, frozen=True):
    format: int
    contents: Contents


def contents_of(layout: Layout, image: Image, cache: Path, known: Mapping[Digest, Contents] = {}) -> Contents:
    """What is inside an image; `cache` remembers layers, and of some (by diff ID) the caller knows it.

    ImageError when a layer is damaged.
    """
    ids = [layer.diff_id for layer in image.layer_blobs]
    notes = {one: known.get(one) or _noted(cache / f"{hex_of(one)}.json") for one in ids}
    unread = [layer for layer in image.layer_blobs if notes[layer.diff_id] is None]
    if len(unread) > 1:
        with ThreadPoolExecutor(_THREADS) as pool:
            read = dict(pool.map(lambda layer: (layer.diff_id, _of_layer(layout, layer, cache)), unread))
    else:
        read = {layer.diff_id: _of_layer(layout, layer, cache) for layer in unread}
    found = [notes[one] or read[one] for one in ids]
    python = {one.name: one for contents in found for one in contents.python}
    system = {one.name: one for contents in found for one in contents.system}
    told = [contents.os for contents in found if contents.os is not None]
    return Contents(_by_name(python), _by_name(system), told[-1] if told else None)


def _by_name(found: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(found[name] for name in sorted(found))


def _noted(note: Path) -> Contents | None:
    """What was found in a layer before; None if it was not read before, or by another version."""
    try:
        return _note(note)
    except (OSError, msgspec.MsgspecError):
        return None


@functools.lru_cache(_NOTES)
def _note(note: Path) -> Contents:
    """Read a note; what a layer has, which its name tells, never changes."""
    record = msgspec.json.decode(note.read_bytes(), type=_Record)
    if record.format != _FORMAT:
        raise msgspec.ValidationError("of another version")
    return record.contents


def _of_layer(layout: Layout, layer: LayerBlob, cache: Path) -> Contents:
    contents = _read_layer(layout, layer)
    replace_note(cache / f"{hex_of(layer.diff_id)}.json", msgspec.json.encode(_Record(_FORMAT, contents)))
    return contents


def _read_layer(layout: Layout, layer: LayerBlob) -> Contents:
    collected = _Collected()
    with reading_layer(layout, layer) as reader:
        for member in reader:
            collected.take(member, reader)
    return collected.contents()


class _Collected:
    """What the files of one layer say."""

    def __init__(self) -> None:
        self._python: dict[str, PythonPackage] = {}
        self._embedded: dict[str, tuple[Embedded, ...]] = {}
        self._system: dict[str, SystemPackage] = {}
        self._licenses: dict[str, tuple[str, ...]] = {}
        self._os: OperatingSystem | None = None

    def take(self, member: Member, reader: TarReader) -> None:
        """Look at one file."""
        path = member.name.removeprefix("./").lstrip("/")
        if member.kind != "file" or member.size > _FILE_LIMIT or not is_telling(path):
            return
        for pattern, method in _READERS.items():
            if fnmatch.fnmatchcase(path, pattern):
                method(self, path, b"".join(reader.content()).decode("utf-8", "replace"))
                return

    def metadata(self, path: str, text: str) -> None:
        """A distribution's METADATA."""
        headers = _headers(text)
        name, version = headers.get("Name", ""), headers.get("Version", "")
        if name and version:
            self._python[path.rpartition("/")[0]] = PythonPackage(normal_name(name), version, _license_of(headers))

    def embedded(self, path: str, text: str) -> None:
        """A distribution's own bill of materials, CycloneDX or SPDX."""
        folder = path.rpartition("/sboms/")[0]
        self._embedded[folder] = (*self._embedded.get(folder, ()), *_components(text))

    def status(self, _: str, text: str) -> None:
        """dpkg's status, whole or one package."""
        for stanza in re.split(r"\n\s*\n", text):
            fields = _headers(stanza.strip() + "\n")
            name, version = fields.get("Package", ""), fields.get("Version", "")
            if not (name and version) or "deinstall" in fields.get("Status", ""):
                continue
            match = _SOURCE.match(fields.get("Source", "") or name)
            source, source_version = (match["name"], match["version"] or version) if match else (name, version)
            architecture = fields.get("Architecture", "")
            self._system[name] = SystemPackage(name, version, architecture, source, source_version)

    def copyright(self, path: str, text: str) -> None:
        """A package's copyright file, where a program can read it."""
        if text.startswith("Format:"):
            names = {match.strip() for match in _LICENSE.findall(text)}
            self._licenses[path.split("/")[3]] = tuple(sorted(names))

    def release(self, _: str, text: str) -> None:
        """os-release."""
        values = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', text, re.MULTILINE))
        if values.get("ID"):
            self._os = OperatingSystem(values["ID"], values.get("VERSION_ID", ""), values.get("PRETTY_NAME", ""))

    def contents(self) -> Contents:
        """Everything together."""
        python = [replace(package, embedded=self._embedded.get(folder, ())) for folder, package in self._python.items()]
        system = [
            replace(package, licenses=self._licenses.get(name, ())) for name, package in sorted(self._system.items())
        ]
        return Contents(tuple(sorted(python, key=lambda one: one.name)), tuple(system), self._os)


_READERS = {
    "*.dist-info/METADATA": _Collected.metadata,
    "*.dist-info/sboms/*.json": _Collected.embedded,
    "var/lib/dpkg/status.d/*": _Collected.status,
    "var/lib/dpkg/status": _Collected.status,
    "usr/share/doc/*/copyright": _Collected.copyright,
    "usr/lib/os-release": _Collected.release,
    "etc/os-release": _Collected.release,
}


def is_telling(path: str) -> bool:
    """Whether a file says by its path that it tells of a package or of the operating system."""
    return _telling().match(path) is not None


@functools.cache
def _telling() -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, _READERS)))


def normal_name(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _headers(text: str) -> Any:
    """A text's headers. The parser is imported only now: most builds bring no new package, and it is slow to import."""
    return importlib.import_module("email.parser").HeaderParser().parsestr(text)


def _license_of(headers: Any) -> str:
    """An SPDX expression, or whatever short text or classifier stands in its place."""
    expression: str = headers.get("License-Expression", "").strip()
    if expression:
        return expression
    text: str = headers.get("License", "").strip()
    if text and "\n" not in text and len(text) <= 100 and text != "UNKNOWN":
        return text
    told = [one.rpartition(" :: ")[2] for one in headers.get_all("Classifier", []) if one.startswith("License ::")]
    return ", ".join(told)


def _components(text: str) -> Iterator[Embedded]:
    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return
    listed: Sequence[Any] = document.get("components") or document.get("packages") or ()
    for one in listed:
        if isinstance(one, dict) and isinstance(one.get("name"), str):
            version = one.get("version") or one.get("versionInfo") or ""
            yield Embedded(one["name"], str(version), str(one.get("purl") or ""))
