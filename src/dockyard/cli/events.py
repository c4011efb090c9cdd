"""`dockyard events`: what happened, and what happens."""

from __future__ import annotations

from contextlib import aclosing

import click
from rich.console import Console

from dockyard.cli.showing import cell, console, moment
from dockyard.cli.yards import ask, lines_option, print_item
from dockyard.client import Client
from dockyard.spec.status import Event

_STYLES = {"error": "red", "warning": "yellow"}


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--since", type=click.IntRange(0), default=0, help="Only those after the event of this number.")
@lines_option
def command(name: str | None, follow: bool, since: int, as_json: bool) -> None:
    """Show the events of deployment NAME (default: of all), the oldest first."""
    ask(lambda yard: _show(yard, name or "", since, follow=follow, as_json=as_json))


async def _show(yard: Client, name: str, since: int, *, follow: bool, as_json: bool) -> None:
    out, empty = console(), True
    async with aclosing(yard.events(since, deployment=name, follow=follow)) as events:
        async for event in events:
            empty = False
            if as_json:
                print_item(event)
            else:
                _print(out, event)
    if empty and not as_json:
        click.echo("No events.")


def _print(out: Console, event: Event) -> None:
    where = f"{event.deployment} " if event.deployment else ""
    who = f"[{event.replica}] " if event.replica else ""
    line = cell(f"{moment(event.at)}  ", "dim").append_text(cell(f"{where}{who}", "bold"))
    out.print(line.append_text(cell(event.what, _STYLES.get(event.level, ""))), soft_wrap=True)
    for more in event.detail.splitlines():
        out.print(cell(f"    {more}", "dim"), soft_wrap=True)
