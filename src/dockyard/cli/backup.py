"""`dockyard backup`: everything that a restore needs, in one file."""

from __future__ import annotations

from pathlib import Path

import click

from dockyard.cli.saving import save
from dockyard.cli.yards import print_json, why_option
from dockyard.spec.resources import format_bytes


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--images/--no-images", default=True, help="With the images that are deployed (on by default).")
@why_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(file: Path, images: bool, why: str, as_json: bool) -> None:
    """Write the yard's state, audit log, policy and images to FILE (- is standard output)."""
    size = save(lambda yard: yard.backup(images=images, why=why), file)
    if str(file) == "-":
        return
    if as_json:
        print_json({"file": str(file), "size": size, "images": images})
    else:
        click.echo(f"{format_bytes(size)} in {file}")
