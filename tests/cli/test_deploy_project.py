"""Deploying a project: its image is built when it changed, and what is said of that; the yard only remembers here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from dockyard.build.builder import Built
from dockyard.cli import commands
from dockyard.errors import ImageNotFoundError
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.support.memory_yard import MemoryYard, on_unix, running
from tests.support.projects import MANIFEST, write_adder

PREFIX = "deployed"


@pytest.fixture
def yard(home: Home, adder: Built) -> Iterator[MemoryYard]:
    assert adder  # the base is built
    remembering = MemoryYard()
    with running(remembering, on_unix(home.yard_socket)):
        yield remembering


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_adder(tmp_path / "project", MANIFEST.replace('"adder"', f'"{PREFIX}.adder"'))


def deploy(home: Home, *words: str) -> Result:
    environment = {"DOCKYARD_HOME": str(home.root), "DOCKYARD_YARD": "", "DOCKYARD_TOKEN": ""}
    return CliRunner(env=environment).invoke(commands, ["deploy", *words, "-d"], standalone_mode=False)


@pytest.mark.slow
def test_a_project_is_built_when_it_has_no_image_or_changed_and_its_digest_is_deployed(
    yard: MemoryYard, home: Home, project: Path
) -> None:
    name = f"{PREFIX}.adder:1"
    assert isinstance(deploy(home, str(project), "--no-build").exception, ImageNotFoundError)
    first = deploy(home, str(project))
    assert f"the project had no image: built {name}" in " ".join(first.stderr.split())
    digest = Layout.open(home.images).resolve(name).digest
    assert [(one.name, one.image) for _, (one, *_) in yard.asked] == [("deployed-adder", f"{name}@{digest}")]
    again = deploy(home, str(project))
    assert f"{name} is up to date" in again.stderr
    (project / "predictor.py").write_text((project / "predictor.py").read_text() + "# changed\n")
    assert "the project has changed: built" in " ".join(deploy(home, str(project)).stderr.split())
    changed = yard.asked[-1][1][0].image
    assert changed != f"{name}@{digest}"


@pytest.mark.slow
def test_a_deployment_file_beside_a_project_says_the_rest(
    yard: MemoryYard, home: Home, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "deployment.toml").write_text('name = "summing"\nreplicas = 2\n[strategy]\nkind = "blue-green"\n')
    monkeypatch.chdir(project)
    result = deploy(home)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    asked = yard.asked[-1][1][0]
    assert (asked.name, asked.replicas, asked.strategy.kind) == ("summing", 2, "blue-green")
    assert asked.image.startswith(f"{PREFIX}.adder:1@sha256:")


def test_a_folder_with_neither_is_told(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = deploy(home).exception
    assert isinstance(found, click.UsageError)
    assert "deployment.toml" in str(found)
