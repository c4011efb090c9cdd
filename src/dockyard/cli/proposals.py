"""What a change does, before and while it does it: the plan for people, and the run of it to its receipt.

Called by the verbs that change deployments.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import click
import msgspec
from rich.text import Text

from dockyard.cli import rollouts
from dockyard.cli.plain import plain
from dockyard.cli.showing import cell, console, short_image
from dockyard.cli.yards import ask, print_json, print_line
from dockyard.client import Client
from dockyard.spec.deployment import Deployment
from dockyard.spec.status import Difference, Proposal, RolloutUpdate

_TITLES = {
    "create": "new",
    "update": "changes",
    "scale": "changes its number of replicas",
    "rollback": "goes back",
    "restart": "gets new replicas",
    "delete": "is stopped and removed",
    "nothing": "is as it is asked for: nothing to do",
}
_VALUE_LIMIT = 120


def carry_out(
    change: Callable[[Client], Awaitable[Proposal]], *, as_json: bool, detach: bool = False, dry_run: bool = False
) -> int:
    """Ask for a change, tell its plan, follow the rollout that it began to its receipt; the exit code."""
    proposal = ask(change)
    if dry_run:
        print_json(proposal) if as_json else show(proposal)
        return 0
    if as_json:
        print_line(proposal=proposal)
    else:
        show(proposal, stderr=proposal.rollout is not None)
    if proposal.rollout is None or detach:
        return 0
    return follow(proposal.deployment, proposal.rollout, as_json=as_json)


def follow(name: str, number: int | None, *, as_json: bool) -> int:
    """Follow a rollout to its end; the exit code. Ctrl-C leaves it running and says how to get back to it."""

    async def followed(yard: Client) -> RolloutUpdate:
        return await rollouts.follow(yard, name, number, rollouts.watch(as_json=as_json))

    try:
        last = ask(followed)
    except BaseException as error:
        if not isinstance(error, Exception):
            rollouts.tell_interrupted(name)
        raise
    return rollouts.finish(name, last, as_json=as_json)


def show(proposal: Proposal, *, stderr: bool = False, steps: bool = True) -> None:
    """The plan: what differs, what happens, what to know."""
    out = console(stderr=stderr)
    out.print(_title(proposal))
    for each in _told(proposal):
        out.print(_difference(each), soft_wrap=True)
    if steps:
        for count, step in enumerate(proposal.steps, start=1):
            out.print(cell(f"  {count}. {step}"), soft_wrap=True)
    for note in proposal.notes:
        out.print(Text("  note: ", "yellow").append_text(cell(note)), soft_wrap=True)
    if proposal.dry_run:
        click.echo("Nothing was changed: leave out --dry-run to do it.", err=True)


def _told(proposal: Proposal) -> list[Difference]:
    """What says something: of a new deployment not the defaults, and nothing that is empty on both sides."""
    usual = _DEFAULTS if proposal.kind == "create" else {}
    return [
        each
        for each in proposal.differences
        if not (each.before in _EMPTY and each.after in _EMPTY) and usual.get(each.key, _NEVER) != each.after
    ]


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The keys of all tables with dots between; an empty table is a value."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return found


_NEVER = object()
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_DEFAULTS = _flat(msgspec.to_builtins(Deployment(name="a", image="a")))


def _title(proposal: Proposal) -> Text:
    what = _TITLES.get(proposal.kind, proposal.kind)
    told = Text(f"{proposal.deployment}: {what}", "bold")
    if proposal.revision is not None and proposal.kind not in {"nothing", "scale"}:
        before = f"revision {proposal.previous} -> " if proposal.previous is not None else "revision "
        told.append(f"  {before}{proposal.revision}", "dim")
    return told


def _difference(each: Difference) -> Text:
    if each.before is None:
        return Text("  + ", "green").append_text(cell(f"{each.key}: {_value(each.after)}"))
    if each.after is None:
        return Text("  - ", "red").append_text(cell(f"{each.key}: {_value(each.before)}"))
    return Text("  ~ ", "yellow").append_text(cell(f"{each.key}: {_value(each.before)} -> {_value(each.after)}"))


def _value(value: Any) -> str:
    if isinstance(value, str):
        told = short_image(value) if "@sha256:" in value else value
    else:
        told = msgspec.json.encode(value).decode()
    return plain(told if len(told) <= _VALUE_LIMIT else f"{told[:_VALUE_LIMIT]}...")
