"""Wires concrete things together: the only place that decides which store, which engine, which folders.

Called by the verbs; everything they use is handed to them from here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from dockyard.engines.base import Engine
from dockyard.engines.detect import Choice, detect
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.spec.load import FILE_NAME, load_project

ENGINES = ("auto", "docker", "runc")


def home() -> Home:
    """The places of this user, from the environment."""
    return Home.of(os.environ)


def store() -> Layout:
    """The local image store, made if there is none."""
    return Layout.create(home().images)


@asynccontextmanager
async def chosen_engine(name: str, *, tell: bool = True) -> AsyncIterator[Engine]:
    """The engine asked for, or the one that answers; says which and why on standard error."""
    choice: Choice = await detect(home().runc, prefer=None if name == "auto" else name)
    if tell:
        click.secho(f"engine: {choice.engine.name} ({choice.why})", dim=True, err=True)
    try:
        yield choice.engine
    finally:
        await choice.engine.close()


def image_name(given: str | None) -> str:
    """The image a verb is about: the one named, else that of the project in this folder."""
    if given:
        return given
    if not Path(FILE_NAME).exists():
        raise click.UsageError("Name an image, or go to a folder with a dockyard.toml.")
    return load_project(Path()).project.model.name
