"""What is known of problems, in one form for every source: the nouns that the other modules here exchange. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PYPI = "PyPI"
DEBIAN = "Debian"

EventKind = Literal["introduced", "fixed", "last_affected"]


@dataclass(frozen=True)
class Event:
    """A version at which a range begins or ends."""

    kind: EventKind
    version: str


@dataclass(frozen=True)
class Affected:
    """The versions of a package that a problem is in.

    `ecosystem` is `PyPI`, `Debian:12` or (of any release) `Debian`; `package` is named as the ecosystem compares names.
    `unreadable`: it has ranges, but none in versions of packages, such as commits.
    """

    ecosystem: str
    package: str
    ranges: tuple[tuple[Event, ...], ...] = ()
    versions: tuple[str, ...] = ()
    severity: str = ""
    unreadable: bool = False


@dataclass(frozen=True)
class Advisory:
    """One record: its own id, the other ids of the same problem, and those of the problems that it reports."""

    id: str
    aliases: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    severity: str = ""
    summary: str = ""
    modified: str = ""
    affected: tuple[Affected, ...] = ()


@dataclass(frozen=True)
class Tracked:
    """What Debian's security tracker says of one problem in one source package of one release.

    `status` is the tracker's: `open`, `resolved` or `undetermined`; `nodsa` is why no advisory of its own will come.
    """

    id: str
    ecosystem: str
    package: str
    status: str
    fixed: str = ""
    urgency: str = ""
    nodsa: str = ""
    summary: str = ""


@dataclass(frozen=True)
class Source:
    """A file that was imported.

    `title` says what it is; a later one of the same title takes its place. `covers` are the ecosystems of which it
    holds all that its publisher knew; a single record covers none. Times are RFC 3339.
    """

    title: str
    file: str
    sha256: str
    imported: str
    importer: str
    newest: str
    records: int
    covers: tuple[str, ...]
