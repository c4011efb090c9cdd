"""`dockyard gc`: free the space of what no image needs."""

from __future__ import annotations

import asyncio

import click

from dockyard.build.upkeep import clean
from dockyard.cli import places
from dockyard.engines.detect import detect
from dockyard.errors import EngineNotFoundError
from dockyard.oci.layout import SWEEP_AGE, Layout
from dockyard.spec.resources import format_bytes


@click.command()
@click.option(
    "--older-than",
    type=click.FloatRange(0),
    default=SWEEP_AGE,
    show_default=True,
    help="Seconds. What is younger may belong to a build, or to a container that is about to start.",
)
@click.option("--caches", is_flag=True, help="Also empty the caches of builds: the next one begins from nothing.")
def command(older_than: float, caches: bool) -> None:
    """Remove blobs that no image needs, what runc unpacked of images that are gone, and what killed builds left."""
    store = places.store()
    freed = store.sweep(older_than)
    freed += clean(places.home().cache, older_than, everything=caches)
    if places.home().runc.is_dir():
        freed += asyncio.run(_unpacked(store, older_than))
    click.echo(f"{format_bytes(freed)} freed")


async def _unpacked(store: Layout, older_than: float) -> int:
    """Have the runc engine let go of images that the store has no more; nothing without runc, or for another user."""
    try:
        engine = (await detect(places.home().runc, prefer="runc")).engine
    except EngineNotFoundError:
        return 0
    try:
        return await engine.prune([named.image for named in store.images()], older_than)
    finally:
        await engine.close()
