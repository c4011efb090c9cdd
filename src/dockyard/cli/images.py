"""`dockyard images`: what is in the local store."""

from __future__ import annotations

import json

import click

from dockyard.cli import places
from dockyard.cli.columns import columns
from dockyard.oci.layout import NamedImage
from dockyard.spec.resources import format_bytes

_BASES = "dockyard.base:"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the images in the local store."""
    images = [named for named in places.store().images() if not named.name.startswith(_BASES)]
    if as_json:
        rows = [
            {
                "name": named.name,
                "digest": named.image.digest,
                "size": named.image.size,
                "platform": str(named.image.config.platform),
                "created": named.image.config.created,
            }
            for named in images
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    if not images:
        click.echo("No image yet: `dockyard build` makes one.")
        return
    titles = ("name", "digest", "platform", "size", "created")
    click.echo(columns(titles, [_row(named) for named in images], right=("size",)))


def _row(named: NamedImage) -> tuple[str, ...]:
    image = named.image
    created = image.config.created[:16].replace("T", " ")
    return named.name, image.digest[7:19], str(image.config.platform), format_bytes(image.size), created
