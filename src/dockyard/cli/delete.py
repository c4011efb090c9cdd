"""`dockyard delete`: a deployment is stopped and removed; its history stays."""

from __future__ import annotations

import asyncio
import time

import click

from dockyard.cli.yards import ask, json_option, print_json, why_option
from dockyard.client import Client
from dockyard.errors import UnknownInYardError, YardBusyError
from dockyard.spec.status import Proposal

_LOOK_S = 0.2


@click.command()
@click.argument("name")
@why_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask whether it is meant.")
@click.option("-d", "--detach", is_flag=True, help="Return at once, while its replicas finish.")
@click.option("--timeout", type=click.FloatRange(0), default=120.0, help="Seconds to wait until it is gone.")
@json_option
def command(name: str, why: str, yes: bool, detach: bool, timeout: float, as_json: bool) -> None:
    """Stop deployment NAME, once its requests are answered, and remove it. Its history stays."""
    if not yes:
        click.confirm(f"Stop {name} and remove it?", abort=True, err=True)
    proposal = ask(lambda yard: _delete(yard, name, why, None if detach else timeout))
    if as_json:
        print_json(proposal)
    else:
        click.echo(f"{name} {'is being deleted' if detach else 'deleted'}")


async def _delete(yard: Client, name: str, why: str, patience: float | None) -> Proposal:
    proposal = await yard.delete(name, why=why)
    if patience is None:
        return proposal
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            await yard.status(name)
        except UnknownInYardError:
            return proposal
        await asyncio.sleep(_LOOK_S)
    raise YardBusyError(f"{name} is not gone after {patience:g} s", remedy=f"See why: dockyard status {name}")
