"""`dockyard gc`: free the space of what no image needs."""

from __future__ import annotations

import click

from dockyard.build.upkeep import clean
from dockyard.cli import places
from dockyard.oci.layout import SWEEP_AGE
from dockyard.spec.resources import format_bytes


@click.command()
@click.option(
    "--older-than",
    type=click.FloatRange(0),
    default=SWEEP_AGE,
    show_default=True,
    help="Seconds. What is younger may belong to a build that runs now.",
)
@click.option("--caches", is_flag=True, help="Also empty the caches of builds: the next one begins from nothing.")
def command(older_than: float, caches: bool) -> None:
    """Remove blobs that no image needs, and what killed builds left behind."""
    freed = places.store().sweep(older_than)
    freed += clean(places.home().cache, older_than, everything=caches)
    click.echo(f"{format_bytes(freed)} freed")
