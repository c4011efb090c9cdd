"""The bill of materials of an image, as CycloneDX 1.6.

Made of the contents that package managers recorded, the lock's hashes and the model's files; the same image gives the
same bytes. Scanners match Debian packages by their source, so it is written in both ways that they look for (purl and
Trivy's properties). The command line attaches it at build. Pure. Source: CycloneDX 1.6 JSON reference; purl-spec.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from dockyard import __version__
from dockyard.oci.digest import Digest, hex_of
from dockyard.supply.contents import Contents, OperatingSystem, PythonPackage, SystemPackage

Component = dict[str, Any]
_REMEMBERED = 1024  # of packages, what is said of them: the next image, after an edit, has the same ones


@dataclass(frozen=True)
class ModelFile:
    """One file of the model's weights: its path in the project, its SHA-256 and its bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the model itself."""

    name: str
    version: str
    description: str = ""
    format: str = ""
    license: str = ""
    files: tuple[ModelFile, ...] = ()


@dataclass(frozen=True)
class Subject:
    """The image that is described; `created` is RFC 3339."""

    name: str
    digest: Digest
    platform: str
    created: str


@dataclass(frozen=True)
class Pins:
    """SHA-256 sums by name: of Debian packages, and of the wheels that the lock allows."""

    debian: Mapping[str, str] = field(default_factory=dict)
    python: Mapping[str, Sequence[str]] = field(default_factory=dict)


def cyclonedx(subject: Subject, model: ModelFacts, contents: Contents, pins: Pins) -> dict[str, Any]:
    """The document."""
    root = f"image:{subject.digest}"
    components = [_model(model), *_system_components(contents, pins)]
    embedded: dict[str, Component] = {}
    depends: dict[str, list[str]] = {}
    for package in contents.python:
        component = _python(package, tuple(pins.python.get(package.name, ())))
        components.append(component)
        inside = _embedded(package)
        embedded.update({one["bom-ref"]: one for one in inside})
        depends[component["bom-ref"]] = sorted({one["bom-ref"] for one in inside})
    components += [embedded[ref] for ref in sorted(embedded)]
    top = [one["bom-ref"] for one in components if one["bom-ref"] not in embedded]
    depends[root] = sorted(top)
    depends |= {one["bom-ref"]: [] for one in components if one["bom-ref"] not in depends}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_uuid(subject.digest)}",
        "version": 1,
        "metadata": {
            "timestamp": subject.created,
            "tools": {"components": [{"type": "application", "name": "dockyard", "version": __version__}]},
            "component": {
                "type": "container",
                "bom-ref": root,
                "name": subject.name,
                "version": subject.digest,
                "hashes": [_sha256(hex_of(subject.digest))],
                "purl": _purl("oci", subject.name.rpartition("/")[2], subject.digest, {}),
                "properties": [{"name": "dockyard:platform", "value": subject.platform}],
            },
        },
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": depends[ref]} for ref in sorted(depends)],
    }


def _uuid(digest: Digest) -> str:
    """A serial number that follows from the image (RFC 9562, version 5). Importing `uuid` costs a build 2 ms."""
    value = bytearray(hashlib.sha256(f"sbom of {digest}".encode()).digest()[:16])
    value[6], value[8] = value[6] & 0x0F | 0x50, value[8] & 0x3F | 0x80
    return "-".join(value[start:end].hex() for start, end in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 16)))


def _sha256(value: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": value}


def _model(model: ModelFacts) -> Component:
    component: Component = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{model.name}@{model.version}",
        "name": model.name,
        "version": model.version,
    }
    if model.description:
        component["description"] = model.description
    if model.license:
        component["licenses"] = [{"license": {"name": model.license}}]
    if model.format:
        component["properties"] = [{"name": "dockyard:model:format", "value": model.format}]
    if model.files:
        component["components"] = [
            {
                "type": "file",
                "bom-ref": f"model-file:{file.path}",
                "name": file.path,
                "hashes": [_sha256(file.sha256)],
                "properties": [{"name": "dockyard:bytes", "value": str(file.size)}],
            }
            for file in model.files
        ]
    if len(model.files) == 1:
        component["hashes"] = [_sha256(model.files[0].sha256)]
    return component


def _system_components(contents: Contents, pins: Pins) -> list[Component]:
    if contents.os is None:
        return []
    system = [_debian(package, contents.os, pins.debian.get(package.name, "")) for package in contents.system]
    return [_operating_system(contents.os), *system]


def _operating_system(os: OperatingSystem) -> Component:
    return {
        "type": "operating-system",
        "bom-ref": f"os:{os.name}@{os.version}",
        "name": os.name,
        "version": os.version,
        **({"description": os.title} if os.title else {}),
    }


@functools.lru_cache(_REMEMBERED)
def _debian(package: SystemPackage, os: OperatingSystem, sha256: str) -> Component:
    upstream = package.source
    if package.source_version != package.version:
        upstream += f"@{package.source_version}"
    qualifiers = {"arch": package.architecture, "distro": f"{os.name}-{os.version}", "upstream": upstream}
    purl = _purl("deb", f"{os.name}/{quote(package.name, safe='')}", package.version, qualifiers)
    component: Component = {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
        "properties": [
            {"name": "aquasecurity:trivy:PkgType", "value": os.name},
            {"name": "aquasecurity:trivy:SrcName", "value": package.source},
            {"name": "aquasecurity:trivy:SrcVersion", "value": package.source_version},
        ],
    }
    if package.licenses:
        component["licenses"] = [{"license": {"name": name}} for name in package.licenses]
    if sha256:
        component["hashes"] = [_sha256(sha256)]
    return component


@functools.lru_cache(_REMEMBERED)
def _python(package: PythonPackage, hashes: tuple[str, ...]) -> Component:
    purl = _purl("pypi", package.name, package.version, {})
    component: Component = {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
    }
    if package.license:
        component["licenses"] = [{"license": {"name": package.license}}]
    if hashes:
        component["properties"] = [{"name": "dockyard:lock:sha256", "value": value} for value in sorted(hashes)]
    return component


def _embedded(package: PythonPackage) -> list[Component]:
    components: list[Component] = []
    for one in package.embedded:
        component: Component = {
            "type": "library",
            "bom-ref": f"inside:{package.name}/{one.purl or f'{one.name}@{one.version}'}",
            "name": one.name,
        }
        if one.version:
            component["version"] = one.version
        if one.purl:
            component["purl"] = one.purl
        components.append(component)
    return components


def _purl(kind: str, name: str, version: str, qualifiers: Mapping[str, str]) -> str:
    told = "&".join(f"{key}={quote(value, safe='.-_~')}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{name}@{quote(version, safe=':.-_~')}{f'?{told}' if told else ''}"
