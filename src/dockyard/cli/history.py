"""`dockyard history`: the revisions of a deployment: what ran when, by whom, why, and what became of it."""

from __future__ import annotations

import click

from dockyard.cli.showing import ago, cell, console, short_image, state, table
from dockyard.cli.yards import ask, json_option, print_json
from dockyard.spec.status import Revision


@click.command()
@click.argument("name")
@click.option("-n", "--limit", type=click.IntRange(1), default=20, help="Only the newest N.")
@json_option
def command(name: str, limit: int, as_json: bool) -> None:
    """Show the revisions of deployment NAME, the newest first."""
    found = ask(lambda yard: yard.history(name))
    revisions = found[:limit]
    if as_json:
        print_json(revisions)
        return
    titles = ("revision", "image", "state", "age", "who", "why", "outcome")
    rows = table(*titles, right=("revision",), fold=("why", "outcome"))
    for each in revisions:
        rows.add_row(
            str(each.number),
            cell(short_image(each.image)),
            state(each.state),
            ago(each.created),
            cell(each.who),
            cell(each.why),
            cell(_outcome(each)),
        )
    console().print(rows)
    if older := len(found) - len(revisions):
        click.echo(f"{older} older not shown: `dockyard history {name} --limit {len(found)}`")


def _outcome(revision: Revision) -> str:
    receipt = revision.receipt
    if receipt is None:
        return revision.outcome
    told = f"{receipt.outcome} in {receipt.seconds:.1f} s, {receipt.dropped} dropped"
    return f"{told}; {revision.outcome}" if revision.outcome else told
