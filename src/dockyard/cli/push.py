"""`dockyard push`: an image of the store goes to a registry, as far as it is missing there."""

from __future__ import annotations

import time

import click

from dockyard.cli import places
from dockyard.oci.copying import attached_to
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
    entry = layout.entry(image)
    images = layout.members(entry)
    target = Reference.parse(reference)
    started = time.monotonic()
    registry = Registry()
    sent = registry.push_entry(entry, layout, target)
    attached = attached_to(layout, entry)
    evidence = registry.push_artifacts(attached, layout, target)
    layers = {layer.digest for found in images for layer in found.layers}
    count = len([blob for blob in sent if blob.digest in layers])
    size = sum(blob.size for blob in sent) + evidence
    click.echo(
        f"{target} pushed: {count} of {len(layers)} layers, {format_bytes(size)} moved,"
        f" in {time.monotonic() - started:.1f} s; {len(attached)} attached documents\n{entry.digest}"
    )
