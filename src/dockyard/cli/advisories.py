"""`dockyard advisories`: what is known of problems on this machine, how old it is, and how it gets here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from dockyard.cli import places
from dockyard.cli.showing import cell, console, span, table
from dockyard.supply.advisories.database import opened
from dockyard.supply.advisories.importing import import_files
from dockyard.supply.advisories.records import Source


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Say which advisories were imported here, and how old they are."""
    if context.invoked_subcommand is None:
        with opened(places.home().advisories) as advisories:
            _show(advisories.sources, as_json)


@command.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--replace", is_flag=True, help="Forget what was imported before, also of other ecosystems.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_(files: tuple[Path, ...], replace: bool, as_json: bool) -> None:
    """Import advisories from FILES: archives of the OSV project for PyPI or Debian, single OSV records, or the JSON of
    Debian's security tracker.

    A newer file takes the place of an older one of the same kind. When one cannot be read, nothing changes.
    """
    _show(import_files(files, places.home().advisories, keep=not replace), as_json)


def age(source: Source) -> str:
    """How long ago a file was imported: `3 d ago`."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(source.imported)).total_seconds()
    return f"{span(seconds)} ago"


def _show(sources: Sequence[Source], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(sources), indent=2))
        return
    rows = table("source", "covers", "records", "newest record", "imported", "sha256", right=("records",))
    for one in sources:
        rows.add_row(
            cell(one.title), cell(_ecosystems(one.covers)), f"{one.records:,}", cell(one.newest[:10] or "-"),
            age(one), one.sha256[:12],
        )  # fmt: skip
    console().print(rows)


def _ecosystems(covers: Sequence[str]) -> str:
    """`PyPI`, `Debian 11 12 13`, or nothing."""
    families: dict[str, list[str]] = {}
    for one in covers:
        family, _, release = one.partition(":")
        families.setdefault(family, []).append(release)
    return ", ".join(" ".join([family, *filter(None, releases)]) for family, releases in families.items()) or "-"
