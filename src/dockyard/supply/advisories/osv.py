"""One record of the OSV format, read: what it says of Python and Debian packages.

Records about other ecosystems, and withdrawn ones, say nothing here. Called by `importing`. Pure. Source: OSV schema
1.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from dockyard.errors import AdvisoryError
from dockyard.supply.advisories import severity
from dockyard.supply.advisories.records import DEBIAN, PYPI, Advisory, Affected, Event, EventKind
from dockyard.supply.contents import normal_name

_SUMMARY = 300
_KINDS: tuple[EventKind, ...] = ("introduced", "fixed", "last_affected")  # `limit` bounds commits, not versions


class _Severity(msgspec.Struct):
    type: str = ""
    score: str = ""


class _Package(msgspec.Struct):
    ecosystem: str
    name: str


class _Range(msgspec.Struct):
    type: str
    events: list[dict[str, str]] = []


class _Affected(msgspec.Struct):
    package: _Package | None = None
    ranges: list[_Range] | None = None
    versions: list[str] | None = None
    severity: list[_Severity] | None = None
    ecosystem_specific: dict[str, Any] | None = None


class _Record(msgspec.Struct):
    id: str
    modified: str = ""
    withdrawn: str | None = None
    aliases: list[str] | None = None
    upstream: list[str] | None = None
    summary: str | None = None
    severity: list[_Severity] | None = None
    affected: list[_Affected] | None = None
    database_specific: dict[str, Any] | None = None


_DECODER = msgspec.json.Decoder(_Record)


def read_record(data: bytes, where: str) -> Advisory | None:
    """The advisory in `data`; None when it is withdrawn or about other ecosystems. AdvisoryError when it is none."""
    try:
        record = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AdvisoryError(
            f"{where} is no OSV record: {error}",
            remedy="Fetch the file again; nothing of it was imported, and what was there before stays.",
        ) from error
    affected = tuple(_affected(record))
    if record.withdrawn or not affected:
        return None
    return Advisory(
        id=record.id,
        aliases=tuple(record.aliases or ()),
        upstream=tuple(record.upstream or ()),
        severity=_severity(record.severity, record.database_specific),
        summary=(record.summary or "")[:_SUMMARY],
        modified=record.modified,
        affected=affected,
    )


def _affected(record: _Record) -> Iterator[Affected]:
    for one in record.affected or ():
        if one.package is None:
            continue
        family = one.package.ecosystem.partition(":")[0]
        if family not in (PYPI, DEBIAN):
            continue
        ranges = [each for each in one.ranges or () if each.type != "GIT"]
        yield Affected(
            ecosystem=PYPI if family == PYPI else one.package.ecosystem,
            package=normal_name(one.package.name) if family == PYPI else one.package.name,
            ranges=tuple(tuple(_events(each)) for each in ranges),
            versions=tuple(one.versions or ()),
            severity=_severity(one.severity, one.ecosystem_specific),
            unreadable=not ranges and not one.versions,
        )


def _events(told: _Range) -> Iterator[Event]:
    for event in told.events:
        for kind in _KINDS:
            if kind in event:
                yield Event(kind, event[kind])


def _severity(vectors: Sequence[_Severity] | None, specific: dict[str, Any] | None) -> str:
    words = specific or {}
    told = next((words[key] for key in ("severity", "urgency") if isinstance(words.get(key), str)), "")
    return severity.of_word(told) or severity.worst({severity.of_vector(one.score) for one in vectors or ()})
