"""`dockyard restore`: a yard out of its backup, or only the check of one; or, without any, out of what still runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import click

from dockyard.cli import places, rebuilding
from dockyard.supply.audit_verifier import keys_in, said
from dockyard.yard.lock import holder
from dockyard.yard.restoring import Checked, check_backup, restore

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.argument("file", type=_FILE, required=False)
@click.option("--verify", "only_check", is_flag=True, help="Check all of it, and restore nothing.")
@click.option("--key", type=_FILE, help="The yard's audit.pub, kept elsewhere. By default the one in the backup.")
@click.option("--checkpoint", "kept", type=_FILE, multiple=True, help="A checkpoint kept elsewhere; may be repeated.")
@click.option("--from-engine", is_flag=True, help="No FILE: read the containers that run. History is lost.")
@click.option("--without-docker", is_flag=True, help="From the engine, leaving out what Docker may have.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    file: Path | None,
    only_check: bool,
    key: Path | None,
    kept: tuple[Path, ...],
    from_engine: bool,
    without_docker: bool,
    as_json: bool,
) -> None:
    """Restore the yard in FILE, written by `dockyard backup`, to this home, which must have none. Needs no network.

    Every file, the store and the audit log are checked first; when one does not hold, nothing is written.
    """
    if (file is None) != from_engine:
        raise click.UsageError("Name a backup, or say --from-engine.")
    if without_docker and not from_engine:
        raise click.UsageError("--without-docker goes with --from-engine.")
    if file is None:
        names = asyncio.run(rebuilding.from_engine(places.home(), without_docker=without_docker))
        click.echo(f"known again: {', '.join(names)}")
        return
    if not only_check and (pid := holder(places.home().yard)) is not None:
        raise rebuilding.runs_already(pid)
    keys = keys_in(key.read_text(encoding="utf-8")) if key else []
    checkpoints = [path.read_text(encoding="utf-8") for path in kept]
    if only_check:
        checked = check_backup(file, keys=keys, kept=checkpoints)
    else:
        checked = restore(file, places.home(), keys=keys, kept=checkpoints)
    if as_json:
        click.echo(json.dumps(_as_json(checked, restored=not only_check), indent=2))
        return
    click.echo(f"{file} is whole: yard {checked.manifest.yard}, written by Dockyard {checked.manifest.dockyard}")
    click.echo(said(checked.audit))
    for line in _missing(checked):
        click.echo(line)
    if not only_check:
        click.echo(f"restored to {places.home().yard}; start it with `dockyard up`")


def _missing(checked: Checked) -> Sequence[str]:
    lines = [
        f"not in the backup: {one.name} {one.digest} ({one.deployment}, revision {one.revision})"
        for one in checked.images
        if not one.included
    ]
    return [*lines, "pull or import these images before you start the yard"] if lines else []


def _as_json(checked: Checked, *, restored: bool) -> dict[str, object]:
    images = [
        {"deployment": one.deployment, "revision": one.revision, "digest": one.digest, "name": one.name}
        | {"included": one.included}
        for one in checked.images
    ]
    return {
        "restored": restored,
        "yard": checked.manifest.yard,
        "dockyard": checked.manifest.dockyard,
        "files": sorted(checked.manifest.files),
        "audit": {"origin": checked.audit.origin, "entries": checked.audit.entries, "root": checked.audit.root.hex()},
        "images": images,
    }
