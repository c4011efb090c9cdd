"""Known problems as verbs show them, and the packages that they are asked for: those of an image, those of a lock.

`build` and `supply` do not know each other; here a lock becomes packages as advisories name them. Called by `scan` and
`update`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click
import msgspec

from dockyard.build.debian import DebianPackage
from dockyard.build.lock import Lock
from dockyard.cli import places
from dockyard.cli.plain import plain
from dockyard.oci.image import Image
from dockyard.oci.layout import Layout
from dockyard.supply.advisories.database import is_there, opened
from dockyard.supply.advisories.inventory import Package, SystemPart, inventory, inventory_of_sbom
from dockyard.supply.advisories.matching import Status
from dockyard.supply.advisories.scan import Changed, Problem, compared, scan
from dockyard.supply.contents import contents_of
from dockyard.supply.evidence import evidence_of
from dockyard.supply.statement import SBOM

_REBUILD = re.compile(r"\+b\d+$")
_COLOURS = {"critical": "red", "high": "red", "medium": "yellow"}
_WORDS = {
    Status.NO_DSA: "no advisory of Debian's will come",
    Status.NO_FIX: "no fix",
    Status.AFFECTED: "affected",
    Status.UNDECIDABLE: "undecidable",
}
_UNKNOWN = (
    "Which known problems go away with that is not known: no advisories were imported here "
    "(`dockyard advisories import`)."
)


def packages_of_image(layout: Layout, image: Image) -> tuple[Package, ...]:
    """What its bill of materials lists; of an image that has none, what its layers hold."""
    for one in evidence_of(layout, image.digest, ""):
        if one.statement.predicate_type == SBOM:
            return inventory_of_sbom(one.statement.predicate)
    contents = contents_of(layout, image, places.home().cache / "contents")
    python = [(one.name, one.version) for one in contents.python]
    system = [SystemPart(one.name, one.source, one.source_version) for one in contents.system]
    return inventory(python, system, (contents.os.name, contents.os.version) if contents.os else ("", ""))


def packages_of_lock(lock: Lock) -> tuple[Package, ...]:
    """What a lock pins. The packages of a base image are not among them, and nor is its release."""
    debian = (*lock.base, *lock.system)
    release = next((one.version.partition(".")[0] for one in debian if one.name == "base-files"), "")
    python = [(wheel.name, wheel.version) for wheel in lock.wheels]
    return inventory(python, [_part(one) for one in debian], ("debian", release.partition("+")[0]))


def _part(package: DebianPackage) -> SystemPart:
    """Archives keep packages in a folder of their source's name; a rebuild of the same source has a suffix."""
    folders = package.path.split("/")
    source = folders[-2] if folders[0] == "pool" and len(folders) > 2 else package.name
    return SystemPart(package.name, source, _REBUILD.sub("", package.version))


def changed_problems(locks: Mapping[str, tuple[Lock, Lock]]) -> Mapping[str, Changed] | None:
    """What becomes of known problems from one lock to the other, by platform; None when no advisories are here."""
    folder = places.home().advisories
    if not is_there(folder):
        return None
    with opened(folder) as advisories:
        return {
            platform: compared(*(scan(packages_of_lock(lock), advisories) for lock in both))
            for platform, both in locks.items()
        }


def show_changed(known: Mapping[str, Changed] | None) -> None:
    """Print it, for people."""
    if known is None:
        click.echo(_UNKNOWN)
        return
    for platform, changed in known.items():
        click.secho(f"known problems for {platform}", bold=True)
        for title, problems, colour in (
            ("goes away", changed.gone, "green"), ("stays", changed.stay, None), ("is new", changed.new, "red"),
        ):  # fmt: skip
            for one in problems:
                click.echo(f"  {click.style(title, fg=colour)}  {said(one)}")
        if not (changed.gone or changed.stay or changed.new or changed.unchecked):
            click.echo("  none, before and after")
        show_unchecked(changed.unchecked)


def said(problem: Problem) -> str:
    """A problem in a line."""
    package = problem.package
    inside = ", ".join(name for name in package.binaries if name != package.name)
    named = f"{package.name} {package.version}{f' ({inside})' if inside else ''}"
    end = f"fixed in {problem.fixed}" if problem.fixed else _WORDS[problem.status]
    return plain(f"{problem.severity or 'unrated'}  {problem.id}  {named}  {end}")


def show_problem(problem: Problem) -> None:
    """Print a problem, with its other names and what it is."""
    click.secho(f"  {said(problem)}", fg=_COLOURS.get(problem.severity))
    more = [", ".join(name for name in problem.ids if name != problem.id), problem.summary]
    click.echo("".join(f"      {plain(line)}\n" for line in more if line), nl=False)


def show_unchecked(unchecked: tuple[tuple[str, int], ...]) -> None:
    """Print of what nothing is known."""
    for ecosystem, count in unchecked:
        click.echo(f"  not checked: {count} packages of {plain(ecosystem)}, whose advisories were not imported here")


def problem_as_json(problem: Problem) -> dict[str, Any]:
    """A problem for programs."""
    told: dict[str, Any] = msgspec.to_builtins(problem)
    return told


def changed_as_json(changed: Changed) -> dict[str, Any]:
    """What changes, for programs."""
    lists = {"gone": changed.gone, "stay": changed.stay, "new": changed.new}
    told: dict[str, Any] = {name: list(map(problem_as_json, problems)) for name, problems in lists.items()}
    return told | {"unchecked": dict(changed.unchecked)}
