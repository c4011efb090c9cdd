"""The base of an image: what it is, whichever way it was made, and the Python inside it.

Two ways make one: `debian_base` puts a small Debian together from packages, `foreign` takes any OCI image that has
Python. Both are a `BaseSource`; `builder` sees no difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dockyard.build.bytecode import Interpreter
from dockyard.build.debian import DebianPackage
from dockyard.build.layers import BuiltLayer
from dockyard.build.lock import Lock
from dockyard.build.request import Request
from dockyard.build.target import triplet_of
from dockyard.errors import ImageError

_LOADERS = {"amd64": "ld-linux-x86-64.so.2", "arm64": "ld-linux-aarch64.so.1"}


@dataclass(frozen=True)
class Base:
    """What an image starts from: layers (lowest first), the tree they make on this machine, and the Python to compile
    with, which is its own or, where that cannot run here, the same one of this machine's architecture.
    """

    layers: tuple[BuiltLayer, ...]
    root: Path
    interpreter: Interpreter
    python: str
    """The path of Python inside the image."""
    environment: tuple[str, ...] = ()


class BaseSource(Protocol):
    """Where a base comes from."""

    @property
    def request(self) -> Request:
        """What the project asks for."""

    def draft(self) -> Lock:
        """A lock with the newest base and nothing else."""

    def system(self, lock: Lock, names: Sequence[str]) -> tuple[DebianPackage, ...]:
        """The Debian packages that `names` need on top of the lock's base."""

    def interpreter(self, lock: Lock) -> Interpreter:
        """The Python that compiles for the lock's base, as soon as it can; the rest of the base may still be to do."""

    def make(self, lock: Lock) -> Base:
        """The base of the lock."""

    def system_layer(self, lock: Lock) -> BuiltLayer:
        """The layer of the lock's Debian packages on top of the base."""


def find_interpreter(root: Path, architecture: str) -> Interpreter:
    """The Python 3 of an unpacked base, ready to run here; ImageError if the base has none that Dockyard can use."""
    triplet = triplet_of(architecture)
    places = (f"usr/lib/{triplet}", "usr/lib64", "lib64", "usr/lib", "lib", f"lib/{triplet}")
    loader = _first_file(root, (f"{place}/{_LOADERS[architecture]}" for place in places))
    if loader is None:
        raise ImageError(
            f"the base image has no glibc for {architecture}",
            remedy="Wheels for Linux need glibc: take a base made from Debian, Ubuntu or Fedora, not Alpine.",
        )
    for prefix in ("usr/local", "usr", "opt/venv"):
        programs = sorted(
            (path for path in (root / prefix / "bin").glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name)),
            key=lambda path: int(path.name.split(".")[1]),
        )
        if programs:
            folders = (f"{prefix}/lib", f"usr/lib/{triplet}", f"lib/{triplet}", "usr/lib64", "usr/lib", "usr/local/lib")
            libraries = tuple(root / folder for folder in folders if (root / folder).is_dir())
            version = programs[-1].name.removeprefix("python")
            return Interpreter(root, loader, libraries, programs[-1], root / prefix, version)
    raise ImageError(
        "the base image has no Python 3 in /usr/bin or /usr/local/bin",
        remedy="Take a base with Python, or leave out [build] base to get Debian's.",
    )


def _first_file(root: Path, names: Iterable[str]) -> Path | None:
    """The first that is a file of its own; links in a tree may be absolute and lead to this machine's files."""
    return next((root / name for name in names if (root / name).is_file() and not (root / name).is_symlink()), None)
