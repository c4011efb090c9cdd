"""`dockyard rm`: names leave the store; `gc` frees the space."""

from __future__ import annotations

import click

from dockyard.cli import places


@click.command()
@click.argument("names", nargs=-1, required=True)
def command(names: tuple[str, ...]) -> None:
    """Forget images by their NAMES. What no name needs any more is freed by `dockyard gc`."""
    layout = places.store()
    for name in names:
        layout.entry(name)  # all of them exist, or none is forgotten
    for name in names:
        layout.remove(name)
        click.echo(f"{name} forgotten")
