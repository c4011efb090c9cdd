"""Images between registries and the store, as a user moves them: copy, tags, pull of all platforms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.oci.image import Platform
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.oci.samples import sample_image
from tests.support.projects import CommandLine
from tests.support.registry import RunningRegistry, running_registry

ARM64 = Platform("linux", "arm64")


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    """A home with an image for two platforms, signed."""
    command = CommandLine(Home(tmp_path / "home"), {"DOCKYARD_KEY_PASSWORD": "open sesame"})
    layout = Layout.create(command.home.images)
    images = [sample_image(layout, "one:1"), sample_image(layout, "other:1", platform=ARM64)]
    layout.add_index(layout.write_index(images), "iris:1")
    command("keygen")
    command("sign", "iris:1")
    return command


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path / "elsewhere") as running:
        yield running


def test_a_copy_takes_platforms_and_signatures_along(
    line: CommandLine, registry: RunningRegistry, elsewhere: RunningRegistry, tmp_path: Path
) -> None:
    line("push", "iris:1", f"{registry.host}/team/iris:1")
    copied = line("copy", f"{registry.host}/team/iris:1", f"{elsewhere.host}/prod/iris:1")
    assert copied.returncode == 0, copied.stderr
    assert "with 6 attached documents" in copied.stdout
    there = CommandLine(Home(tmp_path / "there"))
    pulled = there("pull", "--all-platforms", f"{elsewhere.host}/prod/iris:1", "-t", "iris:1")
    assert pulled.returncode == 0, pulled.stderr
    layout = Layout.open(there.home.images)
    assert layout.entry("iris:1") == Layout.open(line.home.images).entry("iris:1")
    assert layout.resolve("iris:1", ARM64).config.platform == ARM64
    assert there("verify", "iris:1", "--key", str(line.home.keys / "own.pub")).returncode == 0
    assert not list(line.home.cache.glob("copy-*"))


def test_tags_are_listed_without_those_of_signatures(line: CommandLine, registry: RunningRegistry) -> None:
    for tag in ("1", "stable"):
        line("push", "iris:1", f"{registry.host}/team/iris:{tag}")
    assert line("tags", f"{registry.host}/team/iris").stdout.split() == ["1", "stable"]
    missing = line("tags", f"{registry.host}/team/rose")
    assert missing.returncode == 1
    assert "no repository team/rose" in missing.stderr


def test_a_pull_takes_this_machine_s_platform_alone(
    line: CommandLine, registry: RunningRegistry, tmp_path: Path
) -> None:
    line("push", "iris:1", f"{registry.host}/team/iris:1")
    there = CommandLine(Home(tmp_path / "there"))
    assert there("pull", f"{registry.host}/team/iris:1", "-t", "iris:1").returncode == 0
    (named,) = Layout.open(there.home.images).images()
    assert named.image.config.platform.architecture == "amd64"
