"""`dockyard import`: the images of a bundle come into the store, each byte verified, and their signatures if asked."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from dockyard.cli import keyring, places
from dockyard.cli.verify import verified
from dockyard.errors import EvidenceError
from dockyard.oci.bundle import read_bundle
from dockyard.oci.copying import copy_entry
from dockyard.oci.image import Descriptor
from dockyard.oci.layout import Layout


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--verify", "check", is_flag=True, help="Take nothing in unless a trusted key has signed every image.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A public key to trust; may be repeated. By default those trusted here; never those inside the file.",
)
def command(file: Path, check: bool, keys: tuple[Path, ...]) -> None:
    """Take the images of FILE, written by `dockyard export`, into the store. Needs no network."""
    layout = places.store()
    if not check and not keys:
        _tell(read_bundle(file, layout).entries)
        return
    trusted = keyring.trusted_keys(keys)
    # Nothing gets a name in the store before it is verified: it is read into a layout of its own, which borrows blobs.
    with tempfile.TemporaryDirectory(dir=places.home().root, prefix="import-") as folder:
        waiting = Layout.create(Path(folder))
        waiting.blobs.borrow(layout.blobs)
        bundle = read_bundle(file, waiting)
        if not bundle.entries:
            raise EvidenceError(f"{file} has no image", remedy="Write it with `dockyard export`.")
        for entry in bundle.entries.values():
            verified(waiting, entry, trusted)
        for name, entry in bundle.entries.items():
            copy_entry(entry, waiting, layout, name)
    _tell(bundle.entries)


def _tell(entries: Mapping[str, Descriptor]) -> None:
    for name, entry in sorted(entries.items()):
        click.echo(f"{name}  {entry.digest}")
