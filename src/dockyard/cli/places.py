"""The places and things of this user that need no engine: the home, the image store, the project here.

Apart from `compose`, so that verbs which only build or list start without loading an engine's client.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from dockyard.oci.image import Image, Platform
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.spec.load import FILE_NAME, load_project


def home() -> Home:
    """The places of this user, from the environment."""
    return Home.of(os.environ)


def store() -> Layout:
    """The local image store, made if there is none."""
    return Layout.create(home().images)


def runnable(name: str) -> Image:
    """The image of a name for this machine; ImageNotFoundError, naming its platforms, when it is for others only."""
    return store().resolve(name, Platform.host())


def image_name(given: str | None) -> str:
    """The image a verb is about: the one named, else that of the project in this folder."""
    if given:
        return given
    if not Path(FILE_NAME).exists():
        raise click.UsageError("Name an image, or go to a folder with a dockyard.toml.")
    return load_project(Path()).project.model.name
