"""`dockyard export`: images, with all that belongs to them, into one file that needs no network to travel."""

from __future__ import annotations

from pathlib import Path

import click

from dockyard.cli import keyring, places
from dockyard.errors import ImageError
from dockyard.oci.bundle import inventory, write_bundle
from dockyard.oci.digest import Digest, parse_digest
from dockyard.oci.files import store_errors
from dockyard.spec.resources import format_bytes

_LIST_LIMIT = 64 << 20


@click.command()
@click.argument("images", nargs=-1)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--have",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A list of what the other side has (`--list` there): what is on it is left out.",
)
@click.option("--list", "as_list", is_flag=True, help="Print the list of what this store has, for the other side.")
def command(images: tuple[str, ...], file: Path | None, have: Path | None, as_list: bool) -> None:
    """Write IMAGES into FILE, such as bundle.tar: all platforms, signatures, documents, and the keys trusted here.

    `dockyard import` takes it in on the other side; so does any tool that reads OCI layouts.
    """
    layout = places.store()
    if as_list:
        click.echo("\n".join(sorted(inventory(layout))))
        return
    if not images or file is None:
        raise click.UsageError("Name one or more images, then the file to write.")
    omit = frozenset[Digest]() if have is None else _read_list(have)
    keys = {f"{number}.pub": key.pem.encode() for number, key in enumerate(keyring.trusted_keys(()))}
    size = write_bundle(images, layout, file, keys, omit)
    left_out = f", without {len(omit)} blobs that the other side has" if omit else ""
    click.echo(f"{file}: {', '.join(images)}, {format_bytes(size)}{left_out}")


def _read_list(path: Path) -> frozenset[Digest]:
    with store_errors(path), path.open("rb") as stream:
        text = stream.read(_LIST_LIMIT + 1)
    if len(text) > _LIST_LIMIT:
        raise ImageError(f"{path} is too large to be a list", remedy="Write it with `dockyard export --list`.")
    return frozenset(parse_digest(line) for line in text.decode("ascii", "replace").split())
