"""What the containers of a home have of its unpacked layers and trees: that must stay, whatever became of the image.

`runc.engine` hands it to the layer store, which asks while no container can begin. A container says what it is made of
in its `plan`, or, if that names no layers to mount, in the `config.json` that was written before it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dockyard.engines.runc.records import Plan
from dockyard.oci.files import store_errors

HALF_MADE_S = 3600.0
"""No start takes so long: what is still half made then was left by a kill."""


@dataclass(frozen=True)
class Used:
    """Names of folders in `layers`, and in `trees`."""

    layers: frozenset[str]
    trees: frozenset[str]


def used_by(containers: Path) -> Used | None:
    """What all containers of a folder use; None while one is half made or on its way out, which nobody can tell."""
    layers: set[str] = set()
    trees: set[str] = set()
    with store_errors(containers):
        folders = [path for path in containers.iterdir() if path.is_dir()] if containers.is_dir() else []
        for folder in folders:
            try:
                lower = _lower(folder)
                layers.update(lower)
                if not lower:
                    trees.add(_tree(folder))
            except (FileNotFoundError, ValueError):
                if _is_young(folder):
                    return None
    return Used(frozenset(layers), frozenset(trees))


def _lower(folder: Path) -> list[str]:
    lower = Plan.of_text((folder / "plan").read_text(encoding="utf-8")).lower
    return lower.split(":") if lower else []


class _Root(msgspec.Struct, frozen=True):
    path: str


class _Config(msgspec.Struct, frozen=True):
    root: _Root


def _tree(folder: Path) -> str:
    """The name of the tree that is a container's root; ValueError when its configuration is damaged."""
    return Path(msgspec.json.decode((folder / "config.json").read_bytes(), type=_Config).root.path).name


def _is_young(folder: Path) -> bool:
    """Whether it changed a moment ago; what is gone meanwhile did."""
    try:
        return time.time() - folder.stat().st_mtime < HALF_MADE_S
    except FileNotFoundError:
        return True
