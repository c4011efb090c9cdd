"""How an image was made: SLSA provenance, from the lock and the project's files.

It says nothing of the machine, so the same project and lock give the same provenance everywhere; with it and the
project's files an image can be built again. The command line attaches it at build. Pure.
Source: SLSA provenance v1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dockyard import __version__
from dockyard.errors import EvidenceError
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
    """What an image follows from: the project's files by digest, its settings (as written), the lock (plain values)."""

    name: str
    version: str
    platform: str
    files: Mapping[str, Digest]
    settings: str
    lock: Mapping[str, Any]
    created: str


@dataclass(frozen=True)
class Recorded:
    """What a provenance says of the inputs."""

    settings: str
    files: Mapping[str, str]
    lock: Mapping[str, Any]


def recorded_inputs(predicate: Mapping[str, Any]) -> Recorded:
    """Read a predicate that `provenance` wrote; EvidenceError when it is another's."""
    try:
        told = msgspec.convert(predicate, _PredicateWire).build_definition
    except msgspec.ValidationError as error:
        raise _foreign(str(error)) from error
    if told.build_type != BUILD_TYPE:
        raise _foreign(f"its build type is {told.build_type[:100]!r}")
    project = told.external_parameters.project
    return Recorded(project.settings, project.files, told.internal_parameters.lock)


def _foreign(why: str) -> EvidenceError:
    return EvidenceError(
        f"the provenance is not one that this version of Dockyard wrote: {why}", remedy="Build the image again."
    )


def provenance(recipe: Recipe, materials: Sequence[Material]) -> dict[str, Any]:
    """The predicate."""
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "project": {
                    "name": recipe.name,
                    "version": recipe.version,
                    "settings": recipe.settings,
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


class _ProjectWire(msgspec.Struct, frozen=True):
    settings: str
    files: dict[str, str]


class _ExternalWire(msgspec.Struct, frozen=True):
    project: _ProjectWire


class _InternalWire(msgspec.Struct, frozen=True):
    lock: dict[str, Any]


class _DefinitionWire(msgspec.Struct, frozen=True, rename="camel"):
    build_type: str
    external_parameters: _ExternalWire
    internal_parameters: _InternalWire


class _PredicateWire(msgspec.Struct, frozen=True, rename="camel"):
    build_definition: _DefinitionWire
