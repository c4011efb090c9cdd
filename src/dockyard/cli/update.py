"""`dockyard update`: newer versions of the base and the dependencies, kept only if the goldens hold with them.

Until they do, dockyard.lock and the image's names stay as they are, whatever fails or interrupts.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import msgspec

from dockyard.build.builder import Built, Options
from dockyard.build.changes import Cause
from dockyard.build.lock import read_locks
from dockyard.build.progress import Progress
from dockyard.build.target import host_architecture
from dockyard.build.updating import Update, build_updates, drop, find_update, keep
from dockyard.build.workshop import Workshop
from dockyard.cli import compose, places
from dockyard.cli.evidence import attach_evidence
from dockyard.cli.goldens import Verdict, record_goldens, run_goldens, table
from dockyard.cli.problems import changed_as_json, changed_problems, show_changed
from dockyard.cli.progress import shown
from dockyard.errors import DockyardError, LockError, ProjectError
from dockyard.oci.image import Image
from dockyard.oci.reference import repository_of, tagged
from dockyard.spec.load import ProjectFolder, load_project
from dockyard.supply.advisories.scan import Changed

_TITLES = {"python": "Python", "base": "base", "debian": "Debian packages", "python-package": "Python packages"}
_KEPT = "dockyard.lock and the image's names are as they were."


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("-t", "--name", help="Name of the image, NAME[:TAG]. By default the model's name and version.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option(
    "--unsafe-skip-goldens", "skip", is_flag=True, help="Keep the new versions without running the goldens with them."
)
@click.option("--timeout", type=click.FloatRange(1), default=300.0, help="Seconds that all goldens may take.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@compose.engine_option("What runs the goldens.")
def command(
    folder: Path, name: str | None, dry_run: bool, skip: bool, timeout: float, as_json: bool, engine: str
) -> None:
    """Take the newest versions that the project in FOLDER (default: here) allows, rebuild, and run the goldens.

    When anything fails, the old lock and the old image stay, and the exit code is 1. All platforms of the lock are
    updated; goldens run on this machine's own.
    """
    project = load_project(folder)
    model = project.project.model
    tagged(name or model.name)
    options = Options(name or f"{model.name}:{model.version}")
    if not dry_run and not skip:
        _check_goldens(project)
    try:
        with shown() as progress:
            updates = _find(project, options, progress)
        changed = any(update.changes for update in updates)
        known = changed_problems({one.workshop.platform: (one.before, one.lock) for one in updates if one.changes})
        if not as_json:
            _show(updates)
            if changed:
                show_changed(known)
        built, verdicts = _take(updates, options, skip, timeout, engine) if changed and not dry_run else ((), ())
    except DockyardError:
        click.echo(_KEPT, err=True)
        raise
    if as_json:
        click.echo(json.dumps(_as_json(updates, known, built, verdicts), indent=2))
        return
    if verdicts:
        click.echo(table(verdicts))
    for one in built:
        click.echo(f"{one.name} is now {one.image.digest} for {one.image.config.platform}; commit dockyard.lock")
    if changed and dry_run:
        click.echo("Nothing was changed: leave out --dry-run to take these versions.")


def _check_goldens(project: ProjectFolder) -> None:
    folder = project.path / project.project.model.goldens
    if not any(folder.glob("*.json")):
        raise ProjectError(
            f"the project has no goldens in {folder}, so nothing would tell whether newer versions answer the same",
            remedy="Write some (see the tutorial), or take the risk: --unsafe-skip-goldens.",
        )


def _find(project: ProjectFolder, options: Options, progress: Progress) -> list[Update]:
    locks = read_locks(project.path)
    if not locks:
        raise LockError(
            f"{project.path} has no dockyard.lock, so there is nothing to update", remedy="Run `dockyard build` first."
        )
    layout, cache = places.store(), places.home().cache
    workshops = [Workshop(project, layout, cache, progress, one.removeprefix("linux/")) for one in sorted(locks)]
    return [find_update(workshop, locks[workshop.platform], options) for workshop in workshops]


def _take(
    updates: Sequence[Update], options: Options, skip: bool, timeout: float, engine: str
) -> tuple[Sequence[Built], Sequence[Verdict]]:
    """Build, test and keep; an error leaves all as it was."""
    made: list[Image] = []
    try:
        with shown() as progress:
            drawn = [replace(one, workshop=replace(one.workshop, progress=progress)) for one in updates]
            built = build_updates(drawn, options, attach_evidence, made)
        tested = None if skip else _test(built, timeout, engine)
        # From here on it is done or not at all: what is left takes milliseconds.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if tested is not None:
            record_goldens(tested.image, tested.name, tested.verdicts, tested.engine)
    except BaseException:
        drop(updates, made)
        raise
    keep(updates, built, options)
    return built, tested.verdicts if tested else ()


@dataclass(frozen=True)
class _Tested:
    """An image whose goldens hold: what is to be recorded of that."""

    image: Image
    name: str
    verdicts: Sequence[Verdict]
    engine: str


def _test(built: Sequence[Built], timeout: float, engine: str) -> _Tested:
    """Run the goldens in the image for this machine; LockError when they do not hold."""
    own = next((one for one in built if one.image.config.platform.architecture == host_architecture()), None)
    if own is None:
        raise LockError(
            "the lock has no platform that this machine can run, so the goldens cannot be run",
            remedy="Update on such a machine, or take the risk: --unsafe-skip-goldens.",
        )
    name = f"{repository_of(own.name)}:update"
    tested = run_goldens(own.image, name, timeout, engine)
    if tested.verdicts is None or tested.finished.exit_code:
        said = tested.finished.stderr.decode("utf-8", "replace")
        raise LockError(
            f"the goldens do not hold with the new versions (in the image {own.image.digest})",
            detail=table(tested.verdicts) if tested.verdicts else said[-2000:],
            remedy="Find the version that changed the answers, and bound it in [build] requirements; or look whether "
            "the new answers are right, and write them into the goldens.",
        )
    return _Tested(own.image, name, tested.verdicts, tested.engine)


def _show(updates: Sequence[Update]) -> None:
    for update in updates:
        if not update.changes:
            click.echo(f"{update.workshop.platform}: nothing to update, all versions are the newest that fit")
            continue
        click.secho(f"{update.workshop.platform}", bold=True)
        for kind, title in _TITLES.items():
            changes = [change for change in update.changes if change.kind == kind]
            if changes:
                click.echo(f"  {title}")
            for change in changes:
                click.echo(f"    {change.what}  {change.before or 'none'} -> {change.after or 'none'}")


def _as_json(
    updates: Sequence[Update], known: Mapping[str, Changed] | None, built: Sequence[Built], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    return {
        "changes": {update.workshop.platform: list(map(_change, update.changes)) for update in updates},
        "problems": None if known is None else {platform: changed_as_json(one) for platform, one in known.items()},
        "updated": bool(built),
        "images": {str(one.image.config.platform): one.image.digest for one in built},
        "goldens": msgspec.to_builtins(verdicts),
    }


def _change(change: Cause) -> dict[str, str]:
    return {"kind": change.kind, "what": change.what, "before": change.before, "after": change.after}
