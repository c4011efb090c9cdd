"""Where Dockyard keeps things on this machine: the image store, caches, and the folders of running containers.

Pure: it computes paths from the environment and touches nothing. `cli.compose` hands it to whoever needs a place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The root of everything Dockyard writes outside a project; safe to delete when nothing runs."""

    root: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Home:
        """DOCKYARD_HOME, else `dockyard` in the user's data folder (XDG_DATA_HOME, ~/.local/share)."""
        if chosen := environment.get("DOCKYARD_HOME"):
            return cls(Path(chosen).expanduser().absolute())
        data = environment.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()
        return cls(Path(data) / "dockyard")

    @property
    def images(self) -> Path:
        """The local store: one OCI image layout."""
        return self.root / "images"

    @property
    def cache(self) -> Path:
        """What can be computed or fetched again."""
        return self.root / "cache"

    @property
    def containers(self) -> Path:
        """One folder of sockets for each running container. Short, because a socket's path has at most 107 bytes."""
        return self.root / "run"

    @property
    def runc(self) -> Path:
        """The runc engine's layers and containers."""
        return self.root / "runc"

    @property
    def keys(self) -> Path:
        """This user's own signing key, and the public keys that are trusted here."""
        return self.root / "keys"

    @property
    def advisories(self) -> Path:
        """What is known of problems in packages, as it was imported."""
        return self.root / "advisories"

    @property
    def yard(self) -> Path:
        """What the yard keeps: its state, its audit log, and the socket of its API."""
        return self.root / "yard"

    @property
    def gateway(self) -> Path:
        """The gateway's configuration, its last accepted snapshot, and its logs."""
        return self.yard / "gateway"

    @property
    def policy(self) -> Path:
        """What may be deployed on the yard."""
        return self.yard / "policy.toml"

    @property
    def yard_socket(self) -> Path:
        """Where the yard's API answers on this machine."""
        return self.yard / "api.sock"
