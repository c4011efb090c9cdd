"""How an image was made: SLSA provenance, from the lock and the project's files.

It says nothing of the machine, so the same project and lock give the same provenance everywhere; with it and the
project's files an image can be built again. The command line attaches it at build. Pure.
Source: SLSA provenance v1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dockyard import __version__
from dockyard.oci.digest import Digest, hex_of

BUILD_TYPE = "https://dockyard.dev/build/v1"
BUILDER = "https://dockyard.dev/builder/v1"


@dataclass(frozen=True)
class Material:
    """Something that went into the image: where it is named (a purl), and its SHA-256 sums."""

    uri: str
    sha256: Sequence[str]


@dataclass(frozen=True)
class Recipe:
    """What an image follows from: the project's files by digest, its settings, and the lock as plain values."""

    name: str
    version: str
    platform: str
    files: Mapping[str, Digest]
    lock: Mapping[str, Any]
    created: str


def provenance(recipe: Recipe, materials: Sequence[Material]) -> dict[str, Any]:
    """The predicate."""
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "project": {
                    "name": recipe.name,
                    "version": recipe.version,
                    "files": {path: hex_of(digest) for path, digest in sorted(recipe.files.items())},
                },
                "platform": recipe.platform,
            },
            "internalParameters": {"lock": recipe.lock},
            "resolvedDependencies": [
                {"uri": material.uri, "digest": {"sha256": value}}
                for material in materials
                for value in material.sha256
            ],
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"dockyard": __version__}},
            "metadata": {"startedOn": recipe.created, "finishedOn": recipe.created},
        },
    }
