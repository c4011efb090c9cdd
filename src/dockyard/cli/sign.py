"""`dockyard sign`: sign an image of the store, and all that is said of it."""

from __future__ import annotations

from pathlib import Path

import click

from dockyard.cli import keyring, places
from dockyard.supply.sign import sign_all


@click.command()
@click.argument("image", required=False)
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="The private key. By default this user's own."
)
@click.option("--as", "repository", help="The repository that the signature names. By default the image's name.")
def command(image: str | None, key: Path | None, repository: str | None) -> None:
    """Sign IMAGE (default: that of the project here) and its attached evidence.

    `dockyard push` takes the signatures along.
    """
    name = places.image_name(image)
    layout = places.store()
    found = layout.resolve(name)
    signed = sign_all(layout, found.manifest, repository or places.repository_of(name), keyring.signing_key(key))
    click.echo(f"{name} signed, with {len(signed) - 2} documents about it\n{found.digest}")
