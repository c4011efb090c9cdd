"""What `dockyard deploy` is given (a project, an image or a deployment file) as one deployment of a pinned image.

A project is built first: when nothing in it changed that takes a moment, and gives the image that is there already.
What is deployed is always a digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from dockyard.build.builder import Options
from dockyard.build.target import host_architecture
from dockyard.cli import places
from dockyard.cli.build import build_project
from dockyard.cli.showing import console
from dockyard.errors import DeploymentError, ImageNotFoundError
from dockyard.oci.image import Platform
from dockyard.oci.reference import repository_of
from dockyard.spec.deployment import Deployment
from dockyard.spec.load import (
    DEPLOYMENT_FILE_NAME,
    FILE_NAME,
    keys_of,
    load_deployment,
    load_project,
    merged,
    parse_deployment,
)

_OPTIONS = "the options"
_NAME_LIMIT = 40
_PINNED = re.compile(r"@sha256:[0-9a-f]{64}$")


@dataclass(frozen=True)
class Deployable:
    """What was asked for: `project` and `file` as far as the argument names them; keys that options give."""

    project: Path | None
    file: Path | None
    given: Mapping[str, Any]

    @classmethod
    def of(cls, argument: str | None, given: Mapping[str, Any]) -> Deployable:
        """Tell what an argument is: a folder with a dockyard.toml, a .toml file, else an image's name."""
        if argument is None:
            return cls._here(given)
        path = Path(argument)
        if path.is_dir():
            return cls._project(path, given)
        if path.suffix == ".toml":
            if path.name == FILE_NAME:
                return cls._project(path.parent, given)
            return cls(None, path, given)
        return cls(None, None, {**given, "image": argument})

    @classmethod
    def _here(cls, given: Mapping[str, Any]) -> Deployable:
        if Path(FILE_NAME).exists():
            return cls._project(Path(), given)
        if Path(DEPLOYMENT_FILE_NAME).exists():
            return cls(None, Path(DEPLOYMENT_FILE_NAME), given)
        raise click.UsageError(
            f"Name an image or a deployment file, or go to a folder with a {FILE_NAME} or a {DEPLOYMENT_FILE_NAME}."
        )

    @classmethod
    def _project(cls, folder: Path, given: Mapping[str, Any]) -> Deployable:
        file = folder / DEPLOYMENT_FILE_NAME
        return cls(folder, file if file.exists() else None, given)

    def wanted(self, *, build: bool) -> Mapping[str, Any]:
        """The keys that are given, with the image of the project (built if need be) and a name."""
        given = dict(self.given)
        if self.project is not None:
            given["image"] = project_image(self.project, build=build)
        if "name" not in given and "image" in given and not self._names("name"):
            given["name"] = deployment_name(given["image"])
        return given

    def deployment(
        self, given: Mapping[str, Any], now: Deployment | None, platform: Platform | None = None
    ) -> Deployment:
        """The deployment to ask for, its image pinned for a platform (None: this machine's).

        Keys that neither file nor options say stay as they are `now`: all of them without a file; with one, which says
        everything else, only the number of replicas.
        """
        if self.file is not None:
            kept = {} if now is None or self._names("replicas") else {"replicas": now.replicas}
            asked = load_deployment(self.file, {**kept, **given})
        else:
            kept = {} if now is None else msgspec.to_builtins(now)
            asked = parse_deployment(merged(kept, given), _OPTIONS)
        return msgspec.structs.replace(asked, image=pinned(asked.image, self.file, platform))

    def name(self, given: Mapping[str, Any]) -> str:
        """The deployment's name, before all of it is known."""
        return given["name"] if "name" in given else load_deployment(self._file(), given).name

    def _file(self) -> Path:
        assert self.file is not None
        return self.file

    def _names(self, key: str) -> bool:
        return self.file is not None and key in keys_of(self.file)


def project_image(folder: Path, *, build: bool) -> str:
    """The image of a project: that in the store, or, with `build`, a new one where the project changed."""
    project = load_project(folder)
    model = project.project.model
    name, layout, out = f"{model.name}:{model.version}", places.store(), console(stderr=True)
    try:
        before = layout.entry(name)
    except ImageNotFoundError:
        before = None
    if not build:
        if before is None:
            raise ImageNotFoundError(
                f"{name} is not built yet", remedy="Leave out --no-build, or run `dockyard build`."
            )
        return name
    members = layout.members(before) if before is not None else ()
    platforms = [one.config.platform.architecture for one in members] or [host_architecture()]
    built = build_project(project, Options(name), platforms)
    if before is not None and layout.entry(name).digest == before.digest:
        out.print(f"{name} is up to date", style="dim")
    else:
        what = "had no image" if before is None else "has changed"
        out.print(f"the project {what}: built {name} in {sum(one.seconds for one in built):.1f} s")
    return name


def pinned(image: str, file: Path | None, platform: Platform | None = None) -> str:
    """An image's name with the digest that the store has for a platform; one that is pinned stays as it is."""
    if _PINNED.search(image):
        return image
    try:
        digest = places.store().resolve(image, platform).digest
    except ImageNotFoundError as error:
        where = f"{file}: " if file is not None else ""
        raise ImageNotFoundError(f"{where}{error.what}", remedy=error.remedy, detail=error.detail) from error
    if image.startswith("sha256:"):
        raise DeploymentError(f"{image[:80]} has no name", remedy="Write NAME@sha256:..., or deploy it by its name.")
    return f"{image}@{digest}"


def deployment_name(image: str) -> str:
    """A deployment's name made from an image's: `iris` for `registry.example.org/models/iris:2`."""
    last = repository_of(image).rpartition("/")[2].lower()
    name = re.sub(r"[^a-z0-9]+", "-", last)[:_NAME_LIMIT].strip("-")
    if not name:
        raise DeploymentError(f"no name can be made from {image!r}", remedy="Say it: --name NAME.")
    return name
