"""`dockyard diff`: what two images differ in."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click
import msgspec

from dockyard.cli import places
from dockyard.supply.compare import Change, Difference, compare
from dockyard.supply.contents import contents_of

_SHOWN = 20
_WIDEST = 120
_MARKS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


@click.command()
@click.argument("before")
@click.argument("after")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(before: str, after: str, as_json: bool) -> None:
    """Show what changed from image BEFORE to image AFTER.

    The model's signature and goldens come first, then packages, settings, layers, files and size.
    """
    layout, cache = places.store(), places.home().cache / "contents"
    old, new = layout.resolve(before), layout.resolve(after)
    inside = (contents_of(layout, old, cache), contents_of(layout, new, cache))
    difference = compare(old, new, inside, (layout, layout))
    if as_json:
        told = msgspec.to_builtins(difference) | {"size": {"before": old.size, "after": new.size}}
        click.echo(json.dumps(told, indent=2))
        return
    if old.digest == new.digest:
        click.echo(f"{before} and {after} are the same image")
        return
    show(difference)
    click.echo(f"size: {old.size:,} bytes before, {new.size:,} after ({new.size - old.size:+,})")


def show(difference: Difference) -> None:
    """Print it, a group after the other."""
    groups: tuple[tuple[str, Sequence[Change]], ...] = (
        ("signature of the model", difference.signature),
        ("goldens", difference.goldens),
        ("expected outputs of goldens", difference.expected),
        ("Python packages", difference.python),
        ("Debian packages", difference.system),
        ("settings", difference.settings),
        ("labels", difference.labels),
        ("layers", difference.layers),
        ("files", difference.files),
    )
    for title, changes in groups:
        if changes:
            click.secho(title, bold=True)
        for change in changes[:_SHOWN]:
            mark, colour = _MARKS[change.kind]
            click.secho(f"  {mark} {change.name}{_values(title, change)}", fg=colour)
        if len(changes) > _SHOWN:
            click.echo(f"  and {len(changes) - _SHOWN} more")


def _values(title: str, change: Change) -> str:
    if title in ("files", "layers"):
        return ""
    return f"  {' -> '.join(_short(value) for value in (change.before, change.after) if value)}"


def _short(value: str) -> str:
    return value if len(value) <= _WIDEST else f"{value[:_WIDEST]}..."
