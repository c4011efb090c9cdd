"""Which known problems packages have, by the advisories that were imported; and what a change of packages does to them.

Several records on one problem are one problem, put together by the ids that they share. A package of an ecosystem that
the database does not cover is counted as unchecked: nothing is known of it. Called by `cli.scan` and `cli.update`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dockyard.supply.advisories import severity
from dockyard.supply.advisories.database import Advisories
from dockyard.supply.advisories.inventory import Package
from dockyard.supply.advisories.matching import Match, Status, best, match, match_tracked
from dockyard.supply.advisories.records import Advisory

_PREFERRED = ("CVE-", "GHSA-", "PYSEC-")


@dataclass(frozen=True)
class Problem:
    """A problem that a package has, or (undecidable) may have. `ids` are all its names, `id` the best known."""

    id: str
    ids: tuple[str, ...]
    package: Package
    status: Status
    fixed: str = ""
    severity: str = ""
    summary: str = ""


@dataclass(frozen=True)
class Report:
    """What is known of some packages; `unchecked` counts those of which nothing is, by ecosystem."""

    packages: int
    problems: tuple[Problem, ...]
    unchecked: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Changed:
    """What becomes of known problems when packages change; ecosystems that were not checked are left out of it."""

    gone: tuple[Problem, ...]
    stay: tuple[Problem, ...]
    new: tuple[Problem, ...]
    unchecked: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Finding:
    """What one record says: `ids` name the problem, `notes` are bulletins that report it among others."""

    ids: frozenset[str]
    match: Match
    severity: str
    summary: str
    notes: frozenset[str] = frozenset()


def scan(packages: Sequence[Package], advisories: Advisories) -> Report:
    """Look every package up; the worst problems come first."""
    covered = advisories.covers
    problems: list[Problem] = []
    unchecked: dict[str, int] = {}
    for package in packages:
        problems += _merged(package, list(_findings(package, advisories)))
        if package.ecosystem not in covered:
            unchecked[package.ecosystem] = unchecked.get(package.ecosystem, 0) + 1
    problems.sort(key=_order)
    return Report(len(packages), tuple(problems), tuple(sorted(unchecked.items())))


def compared(before: Report, after: Report) -> Changed:
    """What goes, stays and comes. A problem is the same one when package and any of its ids are."""
    unchecked = dict((*before.unchecked, *after.unchecked))
    hidden = {ecosystem.partition(":")[0] for ecosystem in unchecked}
    old, new = (
        [one for one in report.problems if one.package.family not in hidden] for report in (before, after)
    )  # fmt: skip
    return Changed(
        gone=tuple(one for one in old if not _among(one, new)),
        stay=tuple(one for one in new if _among(one, old)),
        new=tuple(one for one in new if not _among(one, old)),
        unchecked=tuple(sorted(unchecked.items())),
    )


def _among(problem: Problem, others: Iterable[Problem]) -> bool:
    mine = (problem.package.family, problem.package.name)
    return any(
        (one.package.family, one.package.name) == mine and not set(one.ids).isdisjoint(problem.ids) for one in others
    )


def _order(problem: Problem) -> tuple[int, int, Package, str]:
    scale = severity.SCALE
    rank = scale.index(problem.severity) if problem.severity else -1
    return (-rank, list(Status).index(problem.status), problem.package, problem.id)


def _findings(package: Package, advisories: Advisories) -> Iterator[_Finding]:
    for advisory, affected in advisories.about(package.ecosystem, package.name):
        verdict = match(package.ecosystem, package.version, affected)
        if verdict is not None:
            for ids, notes in _names(advisory):
                yield _Finding(ids, verdict, affected.severity or advisory.severity, advisory.summary, notes)
    for told in advisories.tracked(package.ecosystem, package.name):
        verdict = match_tracked(package.version, told)
        if verdict is not None:
            yield _Finding(frozenset({told.id}), verdict, severity.of_word(told.urgency), told.summary)


def _names(advisory: Advisory) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """The ids of each problem that a record is about: of one problem, or, as a bulletin, of several."""
    own = {advisory.id, *advisory.aliases}
    reported = {_plain(one) for one in advisory.upstream}
    if len(reported) <= 1:
        yield frozenset(own | reported | {_plain(advisory.id)}), frozenset()
        return
    for one in sorted(reported):
        yield frozenset({one}), frozenset(own)


def _plain(name: str) -> str:
    """Debian's own record of a CVE is named after it."""
    return name.removeprefix("DEBIAN-")


def _merged(package: Package, findings: list[_Finding]) -> Iterator[Problem]:
    """One problem for all findings that share an id, directly or through others."""
    groups: list[list[_Finding]] = []
    for finding in findings:
        joined = [group for group in groups if any(one.ids & finding.ids for one in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([finding, *(one for group in joined for one in group)])
    for group in groups:
        names = sorted({name for one in group for name in one.ids}, key=_preference)
        notes = sorted({name for one in group for name in one.notes} - set(names))
        verdict = best(package.ecosystem, [one.match for one in group])
        yield Problem(
            id=names[0],
            ids=(*names, *notes),
            package=package,
            status=verdict.status,
            fixed=verdict.fixed,
            severity=severity.worst({one.severity for one in group}),
            summary=next((one.summary for one in group if one.summary), ""),
        )


def _preference(name: str) -> tuple[int, str]:
    return next((rank for rank, prefix in enumerate(_PREFERRED) if name.startswith(prefix)), len(_PREFERRED)), name
