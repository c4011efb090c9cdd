"""`dockyard drift`: what runs otherwise than it was asked for."""

from __future__ import annotations

import click

from dockyard.cli.showing import cell, console, table
from dockyard.cli.yards import ask, json_option, print_json


@click.command()
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """Show what differs between what is asked for and what runs, in deployment NAME (default: in all).

    The exit code is 0 when nothing differs, and 1 when something does.
    """
    found = ask(lambda yard: yard.drift(name or ""))
    if as_json:
        print_json(found)
    elif not found:
        click.echo("Everything runs as it was asked for.")
    else:
        rows = table("deployment", "replica", "what", "asked", "found", "mend", fold=("asked", "found", "mend"))
        for each in found:
            texts = (each.deployment, each.replica, each.what, each.asked, each.found, each.mend)
            rows.add_row(*(cell(text) for text in texts))
        console().print(rows)
    if found:
        raise SystemExit(1)
