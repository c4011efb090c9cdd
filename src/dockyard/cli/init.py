"""`dockyard init`: a commented dockyard.toml for the model in a folder, filled with what can be found out."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dockyard.build.discover import Discovery, FurtherFile, discover
from dockyard.errors import ProjectError
from dockyard.oci.files import replace_file
from dockyard.spec.load import FILE_NAME, load_project

_TEMPLATE = """\
# The project of one model. `dockyard build` makes an image of it, `dockyard run` starts that.

[model]
name = {name}
version = "1"
description = ""
{what}
# Inputs with their expected outputs, one JSON file each; `dockyard test` compares.
goldens = "goldens"
{further}
[build]
# Python packages, or the name of a requirements.txt or pyproject.toml. The image gets wheels, pinned in dockyard.lock.
requirements = {requirements}
# Debian packages, for programs and libraries that no wheel brings.
packages = []
# The base: "debian", or any image with Python: "oci:FOLDER", "archive:FILE", "REGISTRY/NAME@sha256:...".
base = "debian"
# Files that stay out of the image. Hidden files, environments, caches and *.tar always do.
exclude = {exclude}

[serve]
# Requests that have arrived together run as one batch of at most so many rows.
max_batch_size = 64
# The largest request body, in bytes.
max_body_bytes = 67108864
log_level = "info"

[run]
# The limits of a container, unless `dockyard run` is told others.
memory = "2GiB"
cpus = 1.0
pids = 256

# [environment]
# Variables for your own code.
# THRESHOLD = "0.5"
"""

_EXAMPLE = '''\
"""A model that needs no file: replace it with yours."""

from typing import Annotated

from berth import Meta


class Predictor:
    """Says hello; the hints of `predict` are the model's schema."""

    def load(self) -> None:
        """Runs once, before the first request: read your weights here."""
        self.greeting = "Hello"

    def predict(self, name: str, times: Annotated[int, Meta(ge=1, le=10)] = 1) -> str:
        """Greet somebody, one to ten times."""
        return " ".join([f"{self.greeting}, {name}!"] * times)
'''


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--force", is_flag=True, help="Overwrite a dockyard.toml that is there.")
def command(folder: Path, force: bool) -> None:
    """Write a dockyard.toml for the model in FOLDER (default: here)."""
    file = folder / FILE_NAME
    if file.exists() and not force:
        raise ProjectError(f"{file} exists already", remedy="Edit it, or write it anew with --force.")
    folder.mkdir(parents=True, exist_ok=True)
    found = discover(folder)
    if not found.predictor and not found.format:
        own = folder / "predictor.py"
        if own.exists():
            raise ProjectError(
                f"{own} has no class with a method `predict`, or is not valid Python",
                remedy=f"Mend it (`python -m py_compile {own}` shows errors), or move it away to get an example.",
            )
        _write(own, _EXAMPLE)
        found = discover(folder)
    _write(file, _text(found, folder))
    load_project(folder)
    _tell(found, file)


def _text(found: Discovery, folder: Path) -> str:
    weights = found.weights[0] if len(found.weights) == 1 else list(found.weights)
    if found.predictor:
        what = "# Your class, as module:Class. Its hints are the model's schema.\n"
        what += f"predictor = {json.dumps(found.predictor)}"
    else:
        what = f"# No code: this format's backend loads the weights.\nformat = {json.dumps(found.format)}"
    if found.weights:
        what += f"\n# Model files; they get layers of their own.\nweights = {json.dumps(weights)}"
    requirements = found.requirements if isinstance(found.requirements, str) else list(found.requirements)
    exclude = [path.name for path in sorted(folder.glob("train*.py"))]
    return _TEMPLATE.format(
        name=json.dumps(found.name),
        what=what,
        further="".join(map(_further, found.further)),
        requirements=json.dumps(requirements),
        exclude=json.dumps(exclude),
    )


def _further(model: FurtherFile) -> str:
    return (
        f"\n# Another model in the same image, asked at /models/{model.name}/predict.\n[[models]]\n"
        f"name = {json.dumps(model.name)}\nformat = {json.dumps(model.format)}\nweights = {json.dumps(model.weights)}\n"
    )


def _write(file: Path, text: str) -> None:
    replace_file(file, text.encode(), file.parent)
    file.chmod(0o644)


def _tell(found: Discovery, file: Path) -> None:
    others = "".join(f", and {model.weights}" for model in found.further)
    click.echo(f"{file} written for {found.predictor or f'the {found.format} model {found.weights[0]}{others}'}.")
    if found.requirements and not isinstance(found.requirements, str):
        click.echo(f"Requirements found: {', '.join(found.requirements)}")
    click.echo("Next: look it through, then `dockyard build`.")
