"""`dockyard token`: who may speak to the yard from where the kernel cannot vouch for them."""

from __future__ import annotations

import re

import click

from dockyard.cli.showing import ago, cell, console, moment, table
from dockyard.cli.yards import ask, json_option, print_json, why_option
from dockyard.spec.requests import TokenRequest
from dockyard.spec.status import Scope, Token

_UNITS = {"h": 3_600, "d": 86_400, "y": 365 * 86_400}


@click.group()
def command() -> None:
    """Make, list and revoke tokens."""


@command.command()
@click.argument("name")
@click.option("--scope", type=click.Choice([str(scope) for scope in Scope]), default="viewer", help="What it allows.")
@click.option("--expires", default="90d", metavar="TIME", help="How long it holds: 12h, 90d, 1y, or never.")
@why_option
@json_option
def create(name: str, scope: str, expires: str, why: str, as_json: bool) -> None:
    """Make a token called NAME. It is printed this once, on standard output."""
    request = TokenRequest(name=name, scope=Scope(scope), expires_s=_seconds(expires), why=why)
    made = ask(lambda yard: yard.create_token(request))
    if as_json:
        print_json(made)
        return
    until = "never expires" if made.token.expires is None else f"holds until {moment(made.token.expires)}"
    click.echo(f"token {name} ({scope}) {until}; use it as DOCKYARD_TOKEN, it is not shown again:", err=True)
    click.echo(made.secret)


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show all tokens, without their secrets."""
    tokens = ask(lambda yard: yard.tokens())
    if as_json:
        print_json(tokens)
    elif not tokens:
        click.echo("No tokens: on its own machine the yard knows its user by the socket.")
    else:
        rows = table("name", "scope", "state", "expires", "last used", "made by", "id")
        for each in tokens:
            expires = "never" if each.expires is None else moment(each.expires)
            used = f"{ago(each.last_used)} ago" if each.last_used is not None else "never"
            texts = (each.name, each.scope, "" if each.revoked is None else "revoked", expires, used, each.created_by)
            rows.add_row(*(cell(text) for text in texts), cell(each.id, "dim"))
        console().print(rows)


@command.command()
@click.argument("name")
@why_option
@json_option
def revoke(name: str, why: str, as_json: bool) -> None:
    """End the token NAME (or of that ID) now."""
    token: Token = ask(lambda yard: yard.revoke_token(name, why=why))
    if as_json:
        print_json(token)
    else:
        click.echo(f"token {token.name} revoked")


def _seconds(text: str) -> float | None:
    if text == "never":
        return None
    match = re.fullmatch(r"(\d{1,6})([hdy])", text)
    if match is None or not int(match[1]):
        raise click.BadParameter(f"{text!r} is no time", param_hint="--expires")
    return float(int(match[1]) * _UNITS[match[2]])
