"""`dockyard keygen`: a pair of keys to sign images with."""

from __future__ import annotations

from pathlib import Path

import click

from dockyard.cli import keyring
from dockyard.supply.keys import PrivateKey, write_pair


@click.command()
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="The private key's file. By default this user's own."
)
@click.option("--unencrypted", is_flag=True, help="Keep the private key without a password. Whoever reads it can sign.")
def command(key: Path | None, unencrypted: bool) -> None:
    """Make a pair of keys: one to sign with, and one for others to verify with.

    The password is asked for, or read from DOCKYARD_KEY_PASSWORD.
    """
    private = key or keyring.own_private()
    if private.suffix == ".pub":
        raise click.UsageError("--key names the private key's file; the public one is written beside it, as .pub.")
    secret = "" if unencrypted else keyring.password("Password for the new key", confirm=True)
    if not secret and not unencrypted:
        raise click.UsageError(f"Give a password in {keyring.PASSWORD_VARIABLE}, or say --unencrypted.")
    public = keyring.public_of(private)
    write_pair(PrivateKey.generate(), secret, private, public)
    click.echo(f"private key: {private}  (keep it secret, and keep a copy: it cannot be made again)")
    click.echo(f"public key:  {public}  (give it to whoever verifies)")
