"""`dockyard logs`: what a deployment's replicas, or a container, wrote."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import aclosing

import click

from dockyard.cli import compose
from dockyard.cli.containers import one_container
from dockyard.cli.plain import plain
from dockyard.cli.yards import print_item
from dockyard.client import Client, YardAddress
from dockyard.errors import DeploymentError, UnknownInYardError, YardNotFoundError


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends; of a deployment, until Ctrl-C.")
@click.option("-n", "--tail", type=click.IntRange(min=0), help="Only the last N lines (of each replica).")
@click.option("--replica", default="", help="Only this replica of the deployment.")
@click.option("--json", "as_json", is_flag=True, help="Of a deployment: print JSON, an object a line.")
@compose.engine_option("Where the container runs.")
def command(name: str, follow: bool, tail: int | None, replica: str, as_json: bool, engine: str) -> None:
    """Show the log of deployment NAME, all its replicas together, or of container NAME."""
    asyncio.run(_show(name, follow, tail, replica, as_json=as_json, engine=engine))


async def _show(name: str, follow: bool, tail: int | None, replica: str, *, as_json: bool, engine: str) -> None:
    address = YardAddress.of(os.environ)
    if replica or as_json or (engine == "auto" and await _is_deployment(name, address)):
        await _of_deployment(name, follow, tail, replica, address, as_json=as_json)
        return
    async with one_container(name, engine) as found:
        async for line in found.engine.logs(found.container.id, follow=follow, tail=tail):
            click.echo(line)


async def _is_deployment(name: str, address: YardAddress) -> bool:
    """Whether a yard answers and knows the name; without a yard only containers are meant."""
    try:
        async with Client(address) as yard:
            await yard.status(name)
    except (DeploymentError, UnknownInYardError, YardNotFoundError):
        return False
    return True


async def _of_deployment(
    name: str, follow: bool, tail: int | None, replica: str, address: YardAddress, *, as_json: bool
) -> None:
    terminal = sys.stdout.isatty()
    async with (
        Client(address) as yard,
        aclosing(yard.logs(name, replica=replica, tail=tail, follow=follow)) as lines,
    ):
        async for each in lines:
            if as_json:
                print_item(each)
            else:
                mark = "" if replica else f"{each.replica}  "
                click.echo(f"{click.style(mark, dim=True)}{plain(each.line) if terminal else each.line}")
