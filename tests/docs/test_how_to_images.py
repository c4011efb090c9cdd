"""The pages about evidence, keys and bundles, followed: their commands are run, in order, on a real project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dockyard.spec.home import Home
from tests.docs.pages import DOCS, blocks
from tests.support.projects import MANIFEST, PREDICTOR, CommandLine, build_in, write_adder

HOW_TO = DOCS / "how-to"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_adder(tmp_path / "project", MANIFEST.replace('name = "adder"', 'name = "adder"\nlicense = "MIT"'))


@pytest.fixture
def own(home: Home, tmp_path: Path) -> Home:
    """A store of one's own, since the pages build `adder:1`; nothing is fetched again for it."""
    own = Home(tmp_path / "own")
    own.root.mkdir()
    home.cache.mkdir(parents=True, exist_ok=True)
    (own.root / "cache").symlink_to(home.cache)
    return own


def commands(page: str) -> list[str]:
    return [block.text for block in blocks(HOW_TO / page) if block.language == "sh"]


def follow(text: str, folder: Path, home: Home, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a block as a user would, in a shell, with `dockyard` on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    engine = {"DOCKYARD_ENGINE": "runc", "DOCKER_HOST": ""}
    environment = {**os.environ, **engine, **variables, "PATH": path, "DOCKYARD_HOME": str(home.root)}
    words = ["bash", "-euc", text]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_the_page_about_contents_can_be_followed(project: Path, own: Home) -> None:
    build_in(
        write_adder(project.parent / "second", (project / "dockyard.toml").read_text().replace('"1"', '"2"')),
        own,
        "adder:2",
    )
    line = CommandLine(own)
    assert line("build", str(project)).returncode == 0
    shown, documents, difference, rebuilt, platforms = commands("what-is-in-my-image.md")
    assert "model      adder 1" in follow(shown, project, own).stdout
    assert follow(documents, project, own).returncode == 0
    assert json.loads((project / "sbom.json").read_text())["bomFormat"] == "CycloneDX"
    assert json.loads((project / "card.json").read_text())["license"] == "MIT"
    for file in ("sbom.json", "provenance.json", "card.json"):
        (project / file).unlink()
    assert "dev.dockyard.model.version  1 -> 2" in follow(difference, project, own).stdout
    assert follow(rebuilt, project, own).stdout.startswith("equal:")
    assert platforms.split()[:2] == ["dockyard", "build"]  # followed by tests/build/test_platforms.py


def test_the_page_about_keys_can_be_followed(project: Path, tmp_path: Path, own: Home) -> None:
    person = tmp_path / "person"
    person.mkdir()
    generate, sign, check, named = commands("keys.md")
    variables = {"DOCKYARD_KEY_PASSWORD": "open sesame", "HOME": str(person)}
    for text in (generate, sign, check):
        done = follow(text, project, own, **variables)
        assert done.returncode == 0, done.stderr
    (person / "team.pub").write_bytes((own.keys / "own.pub").read_bytes())
    assert follow(named, project, own, **variables).returncode == 0


def test_the_page_about_bundles_can_be_followed(project: Path, tmp_path: Path, own: Home) -> None:
    line = CommandLine(own, {"DOCKYARD_KEY_PASSWORD": "open sesame"})
    key, there = tmp_path / "team.key", Home(tmp_path / "there")
    line("keygen", "--key", str(key))
    for version in ("1", "2"):
        manifest = project / "dockyard.toml"
        manifest.write_text(manifest.read_text().replace('version = "1"', f'version = "{version}"'))
        (project / "predictor.py").write_text(f"{PREDICTOR}\n# {version}\n")
        assert line("build", str(project)).returncode == 0
        assert line("sign", f"adder:{version}", "--key", str(key)).returncode == 0
    export, arrive, listed, delta = commands("offline.md")
    folder = tmp_path
    for text, place in ((export, own), (arrive.splitlines()[0], there), (listed, there), (delta, own)):
        done = follow(text, folder, place)
        assert done.returncode == 0, done.stderr
    assert (folder / "delta.tar").stat().st_size < (folder / "bundle.tar").stat().st_size / 20
    assert follow("dockyard import delta.tar --key team.pub", folder, there).returncode == 0
