"""The lock: every Debian package and every wheel of an image, pinned by hash, in `dockyard.lock`.

Written once, committed by the user, read at every build; an image is a function of this file and the project. It names
no host: any mirror or index that has the bytes serves it. Called by `builder`; `debian` and `wheels` resolve.
"""

from __future__ import annotations

import functools
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from dockyard.build.debian import DebianPackage
from dockyard.build.wheels import Wheel
from dockyard.errors import LockError
from dockyard.oci.files import as_store_error, replace_file

FILE_NAME = "dockyard.lock"
_FORMAT = 1
_HEADER = (
    "# What this image is made of, each part pinned by hash. Written by `dockyard build`: commit it, do not edit\n"
    "# it; `dockyard build --upgrade` writes it anew with the newest versions.\n\n"
)


@dataclass(frozen=True)
class Lock:
    """Everything resolved for one platform of one project.

    `asked` digests what was asked for, so that a change is noticed; `base_asked` the part of it that the base and
    Debian packages answer (empty in locks of older versions). `created` (RFC 3339) becomes the image's creation
    time. A base is made of Debian packages (`base`), or is an image, pinned by the digest of its manifest
    (`base_image`); `system` packages come on top, `found_packages` names those that the preflight added.
    """

    asked: str
    created: str
    python: str
    glibc: tuple[int, int]
    base_asked: str = ""
    base_image: str = ""
    base: tuple[DebianPackage, ...] = ()
    system: tuple[DebianPackage, ...] = ()
    found_packages: tuple[str, ...] = ()
    wheels: tuple[Wheel, ...] = ()

    @property
    def base_digest(self) -> str:
        """A digest that stands for the base, and so for its Python."""
        parts = [self.base_image, *(package.sha256 for package in self.base)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    format: int
    platforms: dict[str, Lock]


def now() -> str:
    """The time of locking, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_lock(project: Path, platform: str) -> Lock | None:
    """The lock of `platform` in the project folder; None when there is none yet. LockError if it is damaged."""
    return _read(project / FILE_NAME).platforms.get(platform)


def read_locks(project: Path) -> Mapping[str, Lock]:
    """The lock of each platform in the project folder."""
    return _read(project / FILE_NAME).platforms


def write_locks(project: Path, locks: Mapping[str, Lock]) -> None:
    """Set the locks of these platforms, all at once; those of other platforms stay."""
    file = project / FILE_NAME
    platforms = {**_read(file).platforms, **locks}
    content = msgspec.to_builtins(_File(_FORMAT, dict(sorted(platforms.items()))))
    replace_file(file, (_HEADER + tomli_w.dumps(content)).encode(), file.parent)


def lock_document(lock: Lock) -> dict[str, Any]:
    """A lock as plain values, as provenance records it."""
    document: dict[str, Any] = msgspec.to_builtins(lock)
    return document


def lock_of_document(document: Mapping[str, Any]) -> Lock:
    """A lock that was recorded; LockError when it is none that this version reads."""
    try:
        return msgspec.convert(document, Lock)
    except msgspec.ValidationError as error:
        raise LockError(f"a recorded lock cannot be read: {error}", remedy="Build the image again.") from error


def _read(file: Path) -> _File:
    remedy = f"Restore it from version control, or delete {file.name} to lock anew."
    try:
        found = _parsed(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _File(_FORMAT, {})
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise LockError(f"{file} is damaged: {error}", remedy=remedy) from error
    except OSError as error:
        raise as_store_error(error, file) from error
    if found.format != _FORMAT:
        raise LockError(f"{file} has format {found.format}, this version reads {_FORMAT}", remedy=remedy)
    return found


@functools.lru_cache(2)
def _parsed(text: str) -> _File:
    """A lock file's text, which hundreds of lines and a parser in Python make slow to read."""
    return msgspec.convert(tomllib.loads(text), _File)
