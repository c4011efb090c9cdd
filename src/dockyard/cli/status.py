"""`dockyard status`: all deployments, or one in detail; its rollout live with --follow."""

from __future__ import annotations

import time

import click
from rich.text import Text

from dockyard.cli.proposals import follow as follow_rollout
from dockyard.cli.rollouts import show_problem
from dockyard.cli.showing import ago, cell, console, short_image, span, state, table
from dockyard.cli.yards import ask, print_json
from dockyard.spec.status import DeploymentStatus, Share


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Follow the rollout of NAME to its receipt.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --follow, an object a line.")
def command(name: str | None, follow: bool, as_json: bool) -> None:
    """Show all deployments, or NAME in detail."""
    if follow:
        if not name:
            raise click.UsageError("Name the deployment whose rollout to follow.")
        raise SystemExit(follow_rollout(name, None, as_json=as_json))
    if name:
        one = ask(lambda yard: yard.status(name))
        print_json(one) if as_json else _show_one(one)
        return
    found = ask(lambda yard: yard.deployments())
    if as_json:
        print_json(found)
    elif not found:
        click.echo("No deployment yet: `dockyard deploy` makes one.")
    else:
        _show_all(found)


def _show_all(found: tuple[DeploymentStatus, ...]) -> None:
    rows = table("name", "state", "revision", "ready", "image", "traffic", "changed", right=("revision", "ready"))
    for one in found:
        rows.add_row(
            cell(one.name),
            state(one.state),
            "" if one.active is None else str(one.active),
            f"{one.ready}/{one.wanted}",
            cell(short_image(one.image)),
            _shares(one.traffic),
            ago(one.changed),
        )
    console().print(rows)
    for one in found:
        if one.problem is not None:
            show_problem(console(), one.problem)


def _shares(traffic: tuple[Share, ...]) -> str:
    shares = [each for each in traffic if not each.preview]
    return ", ".join(f"{each.revision}: {each.weight} %" for each in shares) if len(shares) > 1 else ""


def _show_one(one: DeploymentStatus) -> None:
    out = console()
    title = Text(one.name, "bold").append("  ").append_text(state(one.state))
    out.print(title.append(f"  {one.ready}/{one.wanted} ready"))
    out.print(cell(f"  image     {one.image}"), soft_wrap=True)
    for url in one.urls:
        out.print(cell(f"  answers   {url}"), soft_wrap=True)
    for url in one.preview_urls:
        out.print(cell(f"  preview   {url}"), soft_wrap=True)
    if shares := ", ".join(f"{each.weight} % to revision {each.revision}" for each in one.traffic if not each.preview):
        out.print(f"  traffic   {shares}")
    if one.rollout is not None:
        rollout = one.rollout
        told = f"  rollout   to revision {rollout.target} ({rollout.strategy}): {rollout.phase}, "
        out.print(cell(f"{told}{rollout.ready}/{rollout.wanted} ready, for {ago(rollout.started)}  {rollout.message}"))
    out.print()
    _show_replicas(one)
    if one.problem is not None:
        out.print()
        show_problem(out, one.problem)


def _show_replicas(one: DeploymentStatus) -> None:
    if not one.replicas:
        console().print(Text("  no replicas", "dim"))
        return
    rows = table(
        "replica", "revision", "phase", "for", "traffic", "in flight", "crashes", "engine", "container",
        right=("revision", "in flight", "crashes"),
    )  # fmt: skip
    for each in one.replicas:
        rows.add_row(
            cell(each.id),
            str(each.revision),
            state(each.phase),
            span(time.time() - each.since),
            "yes" if each.routed else "",
            str(each.in_flight),
            str(each.crashes or ""),
            cell(each.engine),
            cell(each.container[:12]),
        )
    console().print(rows)
