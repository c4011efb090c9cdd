"""`dockyard push`: an image of the store goes to a registry, as far as it is missing there."""

from __future__ import annotations

import time

import click

from dockyard.cli import places
from dockyard.oci.registry import Reference, Registry
from dockyard.spec.resources import format_bytes


@click.command()
@click.argument("image")
@click.argument("reference")
def command(image: str, reference: str) -> None:
    """Push IMAGE to REFERENCE, such as registry.example.org/team/iris:1.

    Credentials are those of `docker login`.
    """
    layout = places.store()
    found = layout.resolve(image)
    target = Reference.parse(reference)
    started = time.monotonic()
    sent = Registry().push(found, layout, target)
    count, size = len([blob for blob in sent if blob in found.layers]), sum(blob.size for blob in sent)
    click.echo(
        f"{target} pushed: {count} of {len(found.layers)} layers, {format_bytes(size)} moved,"
        f" in {time.monotonic() - started:.1f} s\n{found.digest}"
    )
