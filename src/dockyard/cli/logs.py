"""`dockyard logs`: what a container wrote."""

from __future__ import annotations

import asyncio

import click

from dockyard.cli import compose
from dockyard.cli.containers import one_container


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends.")
@click.option("-n", "--tail", type=click.IntRange(min=0), help="Only the last N lines.")
@compose.engine_option("Where the container runs.")
def command(name: str, follow: bool, tail: int | None, engine: str) -> None:
    """Show the log of container NAME."""
    asyncio.run(_show(name, follow, tail, engine))


async def _show(name: str, follow: bool, tail: int | None, engine: str) -> None:
    async with one_container(name, engine) as found:
        async for line in found.engine.logs(found.container.id, follow=follow, tail=tail):
            click.echo(line)
