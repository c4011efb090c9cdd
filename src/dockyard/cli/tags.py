"""`dockyard tags`: what a repository of a registry has."""

from __future__ import annotations

import json

import click

from dockyard.oci.registry import Reference, Registry


@click.command()
@click.argument("repository")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(repository: str, as_json: bool) -> None:
    """List the tags of REPOSITORY, such as registry.example.org/team/iris."""
    names = Registry().tags(Reference.parse(repository))
    click.echo(json.dumps(names, indent=2) if as_json else "\n".join(names))
