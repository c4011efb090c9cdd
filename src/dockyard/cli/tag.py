"""`dockyard tag`: one more name for an image of the store."""

from __future__ import annotations

import click

from dockyard.cli import places
from dockyard.oci.reference import tagged


@click.command()
@click.argument("image")
@click.argument("name")
def command(image: str, name: str) -> None:
    """Give IMAGE one more NAME. Another image of that name loses it."""
    layout = places.store()
    entry = layout.entry(image)
    layout.add_entry(entry, tagged(name))
    click.echo(f"{tagged(name)} is {entry.digest}")
