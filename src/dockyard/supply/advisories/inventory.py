"""The packages of an image, as advisories name them: Python distributions, and Debian packages by their source.

Read from an image's bill of materials, or put together from a lock. Called by `cli.scan` and `cli.update`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dockyard.errors import AdvisoryError
from dockyard.supply.advisories.records import PYPI
from dockyard.supply.contents import normal_name

_SOURCE = "aquasecurity:trivy:SrcName"
_SOURCE_VERSION = "aquasecurity:trivy:SrcVersion"
_FAMILIES = {"debian": "Debian", "ubuntu": "Ubuntu"}


@dataclass(frozen=True, order=True)
class Package:
    """A package as advisories name it; `binaries` are the Debian packages in the image that were built from it."""

    ecosystem: str
    name: str
    version: str
    binaries: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The ecosystem without its release."""
        return self.ecosystem.partition(":")[0]


@dataclass(frozen=True)
class SystemPart:
    """One Debian package: its own name, and its source's name and version."""

    name: str
    source: str
    version: str


def inventory(
    python: Iterable[tuple[str, str]], system: Iterable[SystemPart], operating_system: tuple[str, str]
) -> tuple[Package, ...]:
    """The packages, sorted; `operating_system` is a name and a release, as in os-release."""
    name, release = operating_system
    ecosystem = f"{_FAMILIES.get(name, name or 'Linux')}:{release}"
    binaries: dict[tuple[str, str], set[str]] = {}
    for part in system:
        binaries.setdefault((part.source, part.version), set()).add(part.name)
    found = [Package(PYPI, normal_name(one), version) for one, version in set(python)]
    found += [Package(ecosystem, *source, tuple(sorted(names))) for source, names in binaries.items()]
    return tuple(sorted(found))


class _Component(msgspec.Struct):
    type: str
    name: str
    version: str = ""
    purl: str = ""
    properties: list[Mapping[str, str]] = []


class _Bom(msgspec.Struct):
    components: list[_Component]


def inventory_of_sbom(document: Mapping[str, Any]) -> tuple[Package, ...]:
    """The packages of a CycloneDX document that a build wrote; AdvisoryError when it is none."""
    try:
        components = msgspec.convert(document, _Bom).components
    except msgspec.ValidationError as error:
        raise AdvisoryError(
            f"the image's bill of materials cannot be read: {error}", remedy="Build the image again."
        ) from error
    python = [(one.name, one.version) for one in components if one.purl.startswith("pkg:pypi/")]
    system = [part for one in components if (part := _system(one)) is not None]
    told = next(((one.name, one.version) for one in components if one.type == "operating-system"), ("", ""))
    return inventory(python, system, told)


def _system(component: _Component) -> SystemPart | None:
    """The Debian package that a component is, if it is one of the image's own, whose source is always told."""
    values = {one.get("name", ""): one.get("value", "") for one in component.properties}
    if not component.purl.startswith("pkg:deb/") or _SOURCE not in values:
        return None
    return SystemPart(component.name, values[_SOURCE], values.get(_SOURCE_VERSION) or component.version)
