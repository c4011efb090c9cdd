"""`dockyard logs`: what a deployment's replicas, or a container, wrote; with --access, who asked it what."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing

import click
from rich.text import Text

from dockyard.cli import compose
from dockyard.cli.containers import one_container
from dockyard.cli.plain import plain
from dockyard.cli.showing import cell, console, table
from dockyard.cli.yards import ask, print_item
from dockyard.client import Client, YardAddress
from dockyard.errors import DeploymentError, UnknownInYardError, YardNotFoundError
from dockyard.spec.status import AccessLine

REQUESTS = 100
MOST_REQUESTS = 10_000


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends; of a deployment, until Ctrl-C.")
@click.option("-n", "--tail", type=click.IntRange(min=0), help="Only the last N lines (of each replica).")
@click.option("--replica", default="", help="Only this replica of the deployment.")
@click.option("--access", is_flag=True, help="The last requests to the deployment (100 without -n) instead.")
@click.option("--status", default="", metavar="CODE", help="With --access: only answers such as 503, or 5xx.")
@click.option("--json", "as_json", is_flag=True, help="Of a deployment: print JSON, an object a line.")
@compose.engine_option("Where the container runs.")
def command(
    name: str, follow: bool, tail: int | None, replica: str, access: bool, status: str, as_json: bool, engine: str
) -> None:
    """Show the log of deployment NAME, all its replicas together, or of container NAME."""
    if access:
        if replica:
            raise click.UsageError("--access shows what was asked of all replicas: without --replica.")
        count = REQUESTS if tail is None else min(max(1, tail), MOST_REQUESTS)
        show = _follow_access if follow else _show_access
        show(name, count, status, as_json=as_json)
        return
    if status:
        raise click.UsageError("--status needs --access.")
    asyncio.run(_show(name, follow, tail, replica, as_json=as_json, engine=engine))


def _follow_access(name: str, count: int, status: str, *, as_json: bool) -> None:
    """A line for each request, as it is answered; a table would have to know how wide the next one is."""

    async def followed(yard: Client) -> None:
        async with aclosing(yard.follow_access(name, status=status, tail=count)) as lines:
            async for line in lines:
                print_item(line) if as_json else console().print(_request(line), soft_wrap=True)

    ask(followed)


def _request(line: AccessLine) -> Text:
    shown = Text(f"{line.time}  ")
    shown.append_text(_status(line))
    ms = "" if line.duration_us is None else f"{line.duration_us / 1000:.1f} ms"
    rest = (f"{ms:>10}", f"revision {line.revision}", line.replica, f"{line.method} {line.path}", line.caller)
    return shown.append_text(cell("  ".join(["", *(each for each in rest if each)])))


def _show_access(name: str, count: int, status: str, *, as_json: bool) -> None:
    lines = ask(lambda yard: yard.access(name, status=status, tail=count))
    if as_json:
        for line in lines:
            print_item(line)
    elif lines:
        console().print(_requests(lines))
    else:
        click.echo("No such requests.")


def _requests(lines: Sequence[AccessLine]) -> object:
    shown = table("time", "status", "ms", "revision", "replica", "request", "caller", right=("ms", "revision"))
    for line in lines:
        shown.add_row(
            cell(line.time),
            _status(line),
            cell("" if line.duration_us is None else f"{line.duration_us / 1000:.1f}"),
            cell(line.revision or ""),
            cell(line.replica or ""),
            cell(f"{line.method} {line.path}"),
            cell(line.caller or ""),
        )
    return shown


def _status(line: AccessLine) -> Text:
    style = "red" if line.status >= 500 else "yellow" if line.status >= 400 else ""
    return cell(f"{line.status} {line.flags}" if line.flags not in {None, "-"} else line.status, style)


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
