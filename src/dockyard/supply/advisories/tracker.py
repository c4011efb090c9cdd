"""The JSON of Debian's security tracker, read: for each source package and problem, where each release stands.

It alone says for which problems there will be no advisory (`nodsa`). One file of tens of megabytes: it is mapped into
memory and decoded a package at a time. Called by `importing`. Source: the tracker's own JSON export.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import msgspec

from dockyard.errors import AdvisoryError
from dockyard.supply.advisories.records import DEBIAN, Tracked

# Releases by their codenames, which alone the tracker uses.
RELEASES = {"buster": "10", "bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14", "duke": "15"}
_SUMMARY = 300


class _Release(msgspec.Struct):
    status: str
    fixed_version: str = ""
    urgency: str = ""
    nodsa: str | None = None
    nodsa_reason: str | None = None


class _Problem(msgspec.Struct):
    releases: dict[str, _Release]
    description: str = ""


_TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PACKAGE = msgspec.json.Decoder(dict[str, _Problem])


def read_tracker(data: bytes | mmap.mmap, where: str) -> Iterator[Tracked]:
    """Everything that it says about the releases of Debian that are known here. AdvisoryError when it is damaged."""
    try:
        for package, raw in _TOP.decode(data).items():
            for name, problem in _PACKAGE.decode(raw).items():
                yield from _states(package, name, problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AdvisoryError(
            f"{where} is not what Debian's security tracker publishes: {error}",
            remedy="Fetch the file again; nothing of it was imported, and what was there before stays.",
        ) from error


def _states(package: str, name: str, problem: _Problem) -> Iterator[Tracked]:
    for codename, release in problem.releases.items():
        if codename in RELEASES:
            yield Tracked(
                id=name,
                ecosystem=f"{DEBIAN}:{RELEASES[codename]}",
                package=package,
                status=release.status,
                fixed=release.fixed_version,
                urgency=release.urgency,
                nodsa="" if release.nodsa is None else release.nodsa or release.nodsa_reason or "not said why",
                summary=problem.description[:_SUMMARY],
            )
