"""`dockyard load`: make an image of the store known to an engine, moving only the layers that it lacks."""

from __future__ import annotations

import asyncio

import click

from dockyard.cli import compose, places
from dockyard.engines.base import Loaded
from dockyard.spec.resources import format_bytes


@click.command()
@click.argument("image", required=False)
@compose.engine_option("The engine to load into.")
def command(image: str | None, engine: str) -> None:
    """Load IMAGE (default: the image of the project here) into an engine."""
    name = places.image_name(image)
    loaded = asyncio.run(_load(name, engine))
    click.echo(
        f"{name} loaded: {loaded.moved_layers} layers, {format_bytes(loaded.moved_bytes)} moved,"
        f" in {loaded.seconds:.1f} s",
        err=True,
    )


async def _load(name: str, engine_name: str) -> Loaded:
    layout = places.store()
    async with compose.chosen_engine(engine_name) as engine:
        return await engine.load(layout.resolve(name), layout, name)
