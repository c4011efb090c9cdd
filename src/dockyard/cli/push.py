"""`dockyard push`: an image of the store goes to a registry, as far as it is missing there."""

from __future__ import annotations

import time

import click

from dockyard.cli import places
from dockyard.oci.layout import artifacts_of
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
    registry = Registry()
    sent = registry.push(found, layout, target)
    attached = artifacts_of(layout, found.digest)
    evidence = registry.push_artifacts(attached, layout, target)
    count = len([blob for blob in sent if blob in found.layers])
    size = sum(blob.size for blob in sent) + evidence
    click.echo(
        f"{target} pushed: {count} of {len(found.layers)} layers, {format_bytes(size)} moved,"
        f" in {time.monotonic() - started:.1f} s; {len(attached)} attached documents\n{found.digest}"
    )
