"""`dockyard rollback`: the traffic goes back to an earlier revision."""

from __future__ import annotations

import click

from dockyard.cli.proposals import carry_out
from dockyard.cli.yards import lines_option, why_option


@click.command()
@click.argument("name")
@click.argument("revision", type=click.IntRange(1), required=False)
@why_option
@click.option("--dry-run", is_flag=True, help="Show what would happen, and change nothing.")
@click.option("-d", "--detach", is_flag=True, help="Return at once, and let it go on.")
@lines_option
def command(name: str, revision: int | None, why: str, dry_run: bool, detach: bool, as_json: bool) -> None:
    """Give the traffic of NAME back to REVISION (default: the one before); `dockyard history NAME` lists them.

    Within the rollback window its replicas are still there, and the switch takes milliseconds.
    """
    code = carry_out(
        lambda yard: yard.rollback(name, revision, why=why, dry_run=dry_run),
        as_json=as_json,
        detach=detach,
        dry_run=dry_run,
    )
    raise SystemExit(code)
