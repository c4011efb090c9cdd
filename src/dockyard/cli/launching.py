"""Starting a container of an image in the store: what `run`, `batch`, `predict` and `test` have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import click

from dockyard.cli import places
from dockyard.engines.base import Container, ContainerSpec, Engine
from dockyard.engines.launch import launch_alone
from dockyard.errors import ImageError
from dockyard.oci.image import Image
from dockyard.spec.labels import CONTRACT
from dockyard.spec.labels import limits as limits_of
from dockyard.spec.resources import Resources


@dataclass(frozen=True)
class Wish:
    """What to start: the image and its name, the container's name, variables, limits, a TCP port, seconds to wait."""

    image: Image
    image_name: str
    name: str
    environment: Mapping[str, str]
    resources: Resources
    publish: int | None = None
    deadline: float = 120.0

    def spec(self, command: tuple[str, ...] = ()) -> ContainerSpec:
        """The container to start; `command` replaces the image's own."""
        return ContainerSpec(
            name=self.name,
            image=self.image,
            image_name=self.image_name,
            command=command,
            environment=self.environment,
            resources=self.resources,
        )


async def start(engine: Engine, wish: Wish) -> Container:
    """Load the image into the engine as far as it is missing there, start the container, wait until it is ready."""
    if CONTRACT not in wish.image.config.labels:
        raise ImageError(
            f"{wish.image_name} has no model server in it, so it would never be ready",
            remedy="Run images that `dockyard build` made; one like this can be their base.",
        )
    await engine.load(wish.image, places.store(), wish.image_name)
    return await launch_alone(
        engine,
        wish.spec(),
        runtime_folder=places.home().containers,
        publish=wish.publish,
        deadline=wish.deadline,
    )


def limits(image: Image, memory: int | None = None, cpus: float | None = None, pids: int | None = None) -> Resources:
    """The limits that were asked for, else those the project wrote into the image, else the defaults."""
    return limits_of(image.config.labels, memory or 0, cpus or 0, pids or 0)


async def free_name(engine: Engine, image_name: str) -> str:
    """A container's name made from an image's: `iris` for `iris:1`, `iris-2` if there is one already."""
    stem = re.sub(r"[^a-zA-Z0-9_.-]", "-", image_name.rpartition("/")[2].partition("@")[0].partition(":")[0])
    stem = stem.lstrip("_.-")[:50] or "model"
    taken = {container.name for container in await engine.list()}
    number = 1
    while (name := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    return name


def environment_of(variables: tuple[str, ...]) -> dict[str, str]:
    """The value of an option --env that may be given several times."""
    environment = {}
    for entry in variables:
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{entry!r} is not NAME=VALUE", param_hint="--env")
        environment[name] = value
    return environment
