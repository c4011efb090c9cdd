"""Whether one version of a package has a problem, by what one record says of it.

Anything that cannot be compared is `undecidable`, unless something else in the record settles it; it is never taken for
fine. Called by `scan`. Pure. Source: OSV schema, section "Evaluation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dockyard.supply.advisories.records import Affected, Event, Tracked
from dockyard.supply.advisories.versions import key_of

_TURNS = ("fixed", "introduced", "last_affected")  # what comes first at one version


class Status(StrEnum):
    """How a package stands to a problem; the first of several records' verdicts counts."""

    FIXED = "fixed-available"
    """It has the problem, and a newer version does not."""
    NO_DSA = "nodsa"
    """It has it, and Debian's security team has decided against an advisory of its own."""
    NO_FIX = "no-fix"
    """It has it, and no version is without it."""
    AFFECTED = "affected"
    """It has it; whether there is a version without it is not said."""
    UNDECIDABLE = "undecidable"
    """Versions could not be compared, or nobody has looked yet."""


@dataclass(frozen=True)
class Match:
    """A verdict, and the first version without the problem where that is known."""

    status: Status
    fixed: str = ""


def match(ecosystem: str, version: str, affected: Affected) -> Match | None:
    """How a version stands to what a record says; None when it does not have the problem."""
    if version in affected.versions:
        return _of_list(ecosystem, version, affected)
    installed = key_of(ecosystem, version)
    if installed is None or affected.unreadable:
        return Match(Status.UNDECIDABLE)
    if any(key_of(ecosystem, one) == installed for one in affected.versions):
        return _of_list(ecosystem, version, affected)
    found = [_in_range(ecosystem, installed, events) for events in affected.ranges]
    sure = [one for one in found if one and one.status is not Status.UNDECIDABLE]
    return _first(ecosystem, sure) if sure else next((one for one in found if one), None)


def match_tracked(version: str, told: Tracked) -> Match | None:
    """The same for what Debian's tracker says."""
    if told.status == "resolved":
        if told.fixed == "0":
            return None  # the release never had it
        installed, fixed = key_of(told.ecosystem, version), key_of(told.ecosystem, told.fixed)
        if installed is None or fixed is None:
            return Match(Status.UNDECIDABLE)
        return Match(Status.FIXED, told.fixed) if installed < fixed else None
    if told.status == "open":
        return Match(Status.NO_DSA if told.nodsa else Status.NO_FIX)
    return Match(Status.UNDECIDABLE)


def best(ecosystem: str, matches: Sequence[Match]) -> Match:
    """One verdict out of those of several records on the same problem."""
    rank = list(Status)
    status = min((one.status for one in matches), key=rank.index)
    return _first(ecosystem, [one for one in matches if one.status is status])


def _of_list(ecosystem: str, version: str, affected: Affected) -> Match:
    """A version that is listed by name has the problem; its ranges may tell where it ends."""
    installed = key_of(ecosystem, version)
    later = [
        event.version
        for events in affected.ranges
        for event in events
        if event.kind == "fixed"
        and installed is not None
        and (key := key_of(ecosystem, event.version))
        and key > installed
    ]
    if later:
        return Match(Status.FIXED, min(later, key=lambda one: key_of(ecosystem, one)))
    return Match(Status.AFFECTED)


def _in_range(ecosystem: str, installed: Any, events: Sequence[Event]) -> Match | None:
    places = [(place, event) for event in events if (place := _place(ecosystem, event)) is not None]
    if len(places) < len(events) or not any(event.kind == "introduced" for event in events):
        return Match(Status.UNDECIDABLE)
    within, ends, fixed = False, False, ""
    for (after_all, key, _), event in sorted(places, key=lambda one: one[0]):
        reached = not after_all or installed >= key
        if event.kind == "introduced":
            if reached:
                within, ends = True, False
        elif event.kind == "fixed":
            if reached:
                within = False
            elif within and not ends:
                ends, fixed = True, event.version
        elif installed > key:
            within = False
        elif within:
            ends = True
    if not within:
        return None
    if fixed:
        return Match(Status.FIXED, fixed)
    return Match(Status.AFFECTED if ends else Status.NO_FIX)


def _place(ecosystem: str, event: Event) -> tuple[int, Any, int] | None:
    """Where an event stands among others; an introduction at "0" is before every version."""
    if event.kind == "introduced" and event.version == "0":
        return (0, 0, 0)
    key = key_of(ecosystem, event.version)
    return None if key is None else (1, key, _TURNS.index(event.kind))


def _first(ecosystem: str, matches: Sequence[Match]) -> Match:
    """Of verdicts that say the same, the one with the earliest fix."""
    fixes = [one for one in matches if one.fixed and key_of(ecosystem, one.fixed) is not None]
    return min(fixes, key=lambda one: (key_of(ecosystem, one.fixed), len(one.fixed))) if fixes else matches[0]
