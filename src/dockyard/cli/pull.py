"""`dockyard pull`: an image comes from a registry into the store, each byte verified."""

from __future__ import annotations

import click

from dockyard.cli import places
from dockyard.oci.registry import Reference, Registry
from dockyard.spec.resources import format_bytes


@click.command()
@click.argument("reference")
@click.option("-t", "--name", help="Its name in the store. By default the reference.")
@click.option("--all-platforms", is_flag=True, help="Fetch all its platforms, not only this machine's.")
def command(reference: str, name: str | None, all_platforms: bool) -> None:
    """Pull REFERENCE, such as registry.example.org/team/iris:1, into the local store, with what is attached to it.

    Credentials are those of `docker login`.
    """
    layout, registry, source = places.store(), Registry(), Reference.parse(reference)
    if all_platforms:
        entry = registry.pull_entry(source, layout)
    else:
        entry = registry.pull(source, None, layout).manifest
    images = layout.members(entry)
    attached = [
        artifact
        for subject in dict.fromkeys([entry.digest, *(image.digest for image in images)])
        for artifact in registry.pull_artifacts(source, subject, layout)
    ]
    if name:
        layout.add_entry(entry, name)
        layout.remove(str(source))
    size = format_bytes(sum(image.size for image in images))
    click.echo(f"{name or source} pulled: {size}, {len(attached)} attached documents\n{entry.digest}")
