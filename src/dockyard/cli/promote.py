"""`dockyard promote`: the revision in preview gets the traffic."""

from __future__ import annotations

import click

from dockyard.cli.proposals import carry_out
from dockyard.cli.yards import lines_option, why_option


@click.command()
@click.argument("name")
@why_option
@click.option("-d", "--detach", is_flag=True, help="Return at once, and let it go on.")
@lines_option
def command(name: str, why: str, detach: bool, as_json: bool) -> None:
    """Give the traffic to the revision of NAME that waits in preview."""
    raise SystemExit(carry_out(lambda yard: yard.promote(name, why=why), as_json=as_json, detach=detach))
