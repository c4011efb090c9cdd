"""`dockyard sign`: sign an image of the store, and all that is said of it."""

from __future__ import annotations

from pathlib import Path

import click

from dockyard.cli import keyring, places
from dockyard.oci.reference import repository_of
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
    entry, secret = layout.entry(name), keyring.signing_key(key)
    subjects = {one.digest: one for one in (entry, *(image.manifest for image in layout.members(entry)))}
    documents = 0
    for subject in subjects.values():
        signed = sign_all(layout, subject, repository or repository_of(name), secret)
        documents += len(signed) - 2
    click.echo(f"{name} signed, with {documents} documents about it\n{entry.digest}")
