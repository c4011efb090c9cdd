"""`dockyard copy`: an image moves from one registry to another, with all that is attached to it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from dockyard.cli import places
from dockyard.oci.copying import attached_to
from dockyard.oci.layout import Layout
from dockyard.oci.registry import Reference, Registry


@click.command()
@click.argument("source")
@click.argument("target")
def command(source: str, target: str) -> None:
    """Copy SOURCE to TARGET, both in registries, such as registry.example.org/team/iris:1.

    All platforms, signatures and documents go along. Nothing stays in the local store.
    """
    registry, origin, goal = Registry(), Reference.parse(source), Reference.parse(target)
    places.home().cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=places.home().cache, prefix="copy-") as folder:
        layout = Layout.create(Path(folder))
        layout.origins = places.store().origins
        entry = registry.pull_entry(origin, layout)
        for subject in {entry.digest, *(image.digest for image in layout.members(entry))}:
            registry.pull_artifacts(origin, subject, layout)
        registry.push_entry(entry, layout, goal)
        attached = attached_to(layout, entry)
        registry.push_artifacts(attached, layout, goal)
    click.echo(f"{goal} is {entry.digest}, with {len(attached)} attached documents")
