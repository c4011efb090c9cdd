"""What a project asks for, as a value with a digest: the lock is made from it and notices when it changes.

Called by `builder`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dockyard.build.wheels import berth_requirements
from dockyard.errors import ProjectError
from dockyard.spec.load import FILE_NAME, ProjectFolder

# The Debian packages of the default base: Python with its standard library, what nearly every wheel links against,
# certificates and time zones.
BASE_PACKAGES = (
    "base-files", "ca-certificates", "libpython3-stdlib", "libstdc++6", "netbase", "python3-minimal", "tzdata",
)  # fmt: skip
_READABLE = ("requirements.txt", "pyproject.toml")


@dataclass(frozen=True)
class Request:
    """Requirements (`own` of the project; with those of berth), files that hold more, Debian packages, the base."""

    own: tuple[str, ...]
    requirements: tuple[str, ...]
    files: tuple[Path, ...]
    packages: tuple[str, ...]
    base: str
    suite: str
    digest: str
    """Of everything that is asked for."""
    base_digest: str
    """Of what is asked of the base and the Debian packages."""


def request_of(folder: ProjectFolder) -> Request:
    """Read what the project asks for; ProjectError if a requirements file is missing or of a kind that cannot serve."""
    build = folder.project.build
    if isinstance(build.requirements, str):
        own: tuple[str, ...] = ()
        files: tuple[Path, ...] = (_requirements_file(folder, build.requirements),)
    else:
        own, files = build.requirements, ()
    requirements = (*own, *berth_requirements())
    base = {
        "packages": build.packages,
        "base": build.base,
        "base packages": BASE_PACKAGES if build.base == "debian" else (),
        "suite": build.suite,
    }
    asked = {
        "requirements": requirements,
        "files": [file.read_text(encoding="utf-8") for file in files],
        **base,
    }
    return Request(own, requirements, files, build.packages, build.base, build.suite, _digest(asked), _digest(base))


def _digest(asked: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _requirements_file(folder: ProjectFolder, name: str) -> Path:
    file = folder.path / name
    if file.name not in _READABLE and file.suffix != ".txt":
        raise ProjectError(
            f"{folder.path / FILE_NAME}: build.requirements names {name!r}, of a kind that is not read",
            remedy='Name a requirements.txt or a pyproject.toml, or list them: requirements = ["numpy>=2"].',
        )
    if not file.is_file():
        raise ProjectError(
            f"{folder.path / FILE_NAME}: build.requirements names {name!r}, which does not exist",
            remedy=f"Create {file}, or list the requirements in {FILE_NAME}.",
        )
    return file
