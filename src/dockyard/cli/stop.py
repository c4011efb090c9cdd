"""`dockyard stop`: let a container finish its requests, end it, and remove what is left of it."""

from __future__ import annotations

import asyncio

import click

from dockyard.cli import compose
from dockyard.cli.containers import Found, all_containers, pick


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Stop all containers that Dockyard started.")
@click.option("--grace", type=click.FloatRange(0, 3600), default=30.0, help="Seconds to finish in before it is killed.")
@compose.engine_option("Where the containers run.")
def command(names: tuple[str, ...], everything: bool, grace: float, engine: str) -> None:
    """Stop the containers NAMES, and remove them."""
    if bool(names) == everything:
        raise click.UsageError("Name the containers to stop, or give --all.")
    asyncio.run(_stop(names, grace, engine))


async def _stop(names: tuple[str, ...], grace: float, engine: str) -> None:
    async with all_containers(engine) as found:
        chosen = tuple(pick(name, found) for name in names) if names else found
        await asyncio.gather(*(_stop_one(each, grace) for each in chosen))


async def _stop_one(found: Found, grace: float) -> None:
    code = await found.engine.stop(found.container.id, grace)
    await found.engine.remove(found.container.id)
    how = "nobody knows how it ended" if code is None else f"exit code {code}"
    click.echo(f"{found.container.name} stopped ({how})")
