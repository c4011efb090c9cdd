"""The keys that verbs use: this user's own, and the public ones that are trusted here.

The own pair is `keys/own.key` and `keys/own.pub` in Dockyard's home; every `.pub` file in `keys/trusted` is trusted,
and so is the own one. Called by keygen, sign, verify and whoever asks for a trusted key.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from dockyard.cli import places
from dockyard.errors import SigningKeyError
from dockyard.supply.keys import PrivateKey, PublicKey

PASSWORD_VARIABLE = "DOCKYARD_KEY_PASSWORD"  # noqa: S105  a variable's name


def own_private() -> Path:
    """Where this user's private key is, or will be."""
    return places.home().keys / "own.key"


def public_of(private: Path) -> Path:
    """Where the public half of a private key's file is."""
    return private.with_suffix(".pub")


def signing_key(path: Path | None) -> PrivateKey:
    """The key to sign with: the file that is named, or this user's own; its password is asked for if need be."""
    file = path or own_private()
    if not file.is_file():
        raise SigningKeyError(
            f"there is no key at {file}", remedy="Make one with `dockyard keygen`, or name one: --key."
        )
    if b"ENCRYPTED" not in file.read_bytes()[:100]:
        return PrivateKey.read(file, "")
    return PrivateKey.read(file, password(f"Password of {file}"))


def password(prompt: str, *, confirm: bool = False) -> str:
    """From the environment, or from whoever sits at the terminal; empty when there is neither."""
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is not None or not sys.stdin.isatty():
        return given or ""
    asked: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, default="", show_default=False)
    return asked


def trusted_keys(named: Sequence[Path]) -> tuple[PublicKey, ...]:
    """The keys that are named, or else all that are trusted here."""
    if named:
        return tuple(PublicKey.read(path) for path in named)
    folder = places.home().keys
    files = [*sorted((folder / "trusted").glob("*.pub")), *folder.glob("own.pub")]
    return tuple({key.pem: key for key in map(PublicKey.read, files)}.values())
