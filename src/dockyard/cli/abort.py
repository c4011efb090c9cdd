"""`dockyard abort`: the rollout under way is given up."""

from __future__ import annotations

import click

from dockyard.cli.proposals import follow, show
from dockyard.cli.yards import ask, lines_option, print_line, why_option


@click.command()
@click.argument("name")
@why_option
@click.option("-d", "--detach", is_flag=True, help="Return at once, and let it go on.")
@lines_option
def command(name: str, why: str, detach: bool, as_json: bool) -> None:
    """Give up the rollout of NAME that is under way; the traffic stays with the old revision.

    The exit code is 0 when it was given up, and 1 when it was too late for that.
    """
    proposal = ask(lambda yard: yard.abort(name, why=why))
    if as_json:
        print_line(proposal=proposal)
    else:
        show(proposal, stderr=True)
    if detach or proposal.rollout is None:
        return
    succeeded = follow(name, proposal.rollout, as_json=as_json) == 0
    raise SystemExit(1 if succeeded else 0)
