"""The order of versions in each ecosystem: dpkg's for Debian, PEP 440's for PyPI.

A version is turned into a key, once; keys of one ecosystem compare. What is no version of the ecosystem has none, and
whoever asked must not guess. Called by `matching`. Pure. Sources: deb-version(7), PEP 440.
"""

from __future__ import annotations

import re
from typing import Any

from packaging.version import InvalidVersion, Version

from dockyard.supply.advisories.records import PYPI

_LONGEST = 256
_EPOCH = re.compile(r"[0-9]+")
_UPSTREAM = re.compile(r"[A-Za-z0-9.+~:-]+")
_REVISION = re.compile(r"[A-Za-z0-9.+~]+")
_PIECES = re.compile(r"(\D*)(\d*)", re.A)
_END = (0,)


def key_of(ecosystem: str, version: str) -> Any:
    """A key that sorts as the ecosystem's versions do; None when this is no version there."""
    if not version or len(version) > _LONGEST:
        return None
    return _pypi(version) if ecosystem == PYPI else _debian(version)


def _pypi(version: str) -> Version | None:
    """Without the local part: 2.1.0+cu118 is built from 2.1.0, and has its problems."""
    try:
        return Version(Version(version).public)
    except InvalidVersion:
        return None


def _debian(version: str) -> tuple[Any, ...] | None:
    epoch, colon, rest = version.partition(":")
    upstream, hyphen, revision = (rest if colon else version).rpartition("-")
    if not hyphen:
        upstream, revision = revision, "0"
    epoch = epoch if colon else "0"
    if not (_UPSTREAM.fullmatch(upstream) and _REVISION.fullmatch(revision) and _EPOCH.fullmatch(epoch)):
        return None
    return (int(epoch), _part(upstream), _part(revision))


def _part(text: str) -> tuple[Any, ...]:
    """Letters and numbers in turns; the end of a part sorts before everything but a tilde."""
    pieces: list[Any] = []
    for letters, digits in _PIECES.findall(text)[:-1]:  # the last match is the empty one at the end
        pieces += [(*map(_weight, letters), *_END), int(digits or 0)]
    return (*pieces, _END)


def _weight(letter: str) -> int:
    if letter == "~":
        return -1
    return ord(letter) if letter.isalpha() else ord(letter) + 256
