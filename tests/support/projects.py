"""Small real projects to build, and a Dockyard home that a whole test run shares, so that a base is made once.

Used by the tests of `build`, `cli` and the journeys.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dockyard.build.builder import Built, Options, build
from dockyard.build.progress import Silent
from dockyard.build.workshop import Workshop
from dockyard.oci.image import Image
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.spec.load import load_project

PREDICTOR = '''\
"""Adds."""

from typing import Annotated

from berth import Meta


class Adder:
    def load(self) -> None:
        self.offset = 0.5

    def predict(self, left: Annotated[float, Meta(ge=0)], right: float = 1.0) -> float:
        """Left plus right plus a half."""
        return left + right + self.offset
'''

MANIFEST = """\
[model]
name = "adder"
version = "1"
predictor = "predictor:Adder"

[run]
memory = "256MiB"
"""


@dataclass
class Shared:
    """The home that the tests of a process share, and the image of `adder` once there is one."""

    home: Home
    image: Image | None = None


SHARED = pytest.StashKey[Shared]()

GOLDEN = '{"inputs": {"left": 1.0, "right": 2.0}, "outputs": 3.5}\n'


def write_adder(folder: Path, manifest: str = MANIFEST, predictor: str = PREDICTOR) -> Path:
    """A project without any dependency of its own."""
    (folder / "goldens").mkdir(parents=True, exist_ok=True)
    (folder / "dockyard.toml").write_text(manifest)
    (folder / "predictor.py").write_text(predictor)
    (folder / "goldens" / "one.json").write_text(GOLDEN)
    return folder


def build_in(folder: Path, home: Home, name: str = "adder:test", **options: Any) -> Built:
    """Build a project in this process."""
    workshop = Workshop(load_project(folder), Layout.create(home.images), home.cache, Silent())
    return build(workshop, Options(name, **options))


@dataclass(frozen=True)
class CommandLine:
    """The real command line, each call a process of its own, in one home."""

    home: Home
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(
        self, *words: str, cwd: Path | None = None, stdin: str = "", deadline: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Run `dockyard WORDS` to its end."""
        return subprocess.run(
            self.command(*words),
            env=self.variables(),
            cwd=cwd,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=deadline,
            check=False,
        )

    def command(self, *words: str) -> list[str]:
        """The command as a list."""
        return [sys.executable, "-m", "dockyard.cli", *words]

    def variables(self) -> dict[str, str]:
        """The environment of the command."""
        return {**os.environ, **self.environment, "DOCKYARD_HOME": str(self.home.root), "COLUMNS": "120"}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Home:
    """A home for the whole run. Its path is short, since sockets live below it."""
    home = Home(tmp_path_factory.mktemp("dy"))
    request.config.stash[SHARED] = Shared(home)
    return home


@pytest.fixture(scope="session")
def adder(home: Home, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Built:
    """The adder's image, built once. A test that moves its name fails (`unmoved` in conftest.py)."""
    built = build_in(write_adder(tmp_path_factory.mktemp("adder")), home, "adder:1")
    request.config.stash[SHARED].image = built.image
    return built


@pytest.fixture
def dockyard(home: Home) -> CommandLine:
    """The command line in the shared home."""
    return CommandLine(home)
