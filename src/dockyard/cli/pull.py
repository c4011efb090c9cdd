"""`dockyard pull`: an image comes from a registry into the store, each byte verified."""

from __future__ import annotations

import click

from dockyard.cli import places
from dockyard.oci.registry import Reference, Registry
from dockyard.spec.resources import format_bytes


@click.command()
@click.argument("reference")
@click.option("-t", "--name", help="Its name in the store. By default the reference.")
def command(reference: str, name: str | None) -> None:
    """Pull REFERENCE, such as registry.example.org/team/iris:1, into the local store.

    Credentials are those of `docker login`.
    """
    layout = places.store()
    source = Reference.parse(reference)
    registry = Registry()
    image = registry.pull(source, None, layout)
    attached = registry.pull_artifacts(source, image.digest, layout)
    if name:
        layout.add(image, name)
        layout.remove(str(source))
    click.echo(
        f"{name or source} pulled: {format_bytes(image.size)}, {len(attached)} attached documents\n{image.digest}"
    )
