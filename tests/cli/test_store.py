"""The store as a user keeps it: tag, rm, gc."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockyard.oci.integrity import check_image
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.oci.samples import sample_image
from tests.support.projects import CommandLine


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    home = Home(tmp_path / "home")
    layout = Layout.create(home.images)
    sample_image(layout, "iris:1")
    sample_image(layout, "iris:2", code=b"another")
    return CommandLine(home)


def names(line: CommandLine) -> set[str]:
    return {named.name for named in Layout.open(line.home.images).images()}


def test_an_image_gets_one_more_name(line: CommandLine) -> None:
    tagged = line("tag", "iris:1", "iris:stable")
    assert tagged.returncode == 0, tagged.stderr
    layout = Layout.open(line.home.images)
    assert layout.resolve("iris:stable") == layout.resolve("iris:1")
    line("tag", "iris:2", "iris:stable")
    assert layout.resolve("iris:stable") == layout.resolve("iris:2")
    assert names(line) == {"iris:1", "iris:2", "iris:stable"}


def test_a_name_that_no_engine_would_take_is_refused(line: CommandLine) -> None:
    refused = line("tag", "iris:1", "Iris")
    assert refused.returncode == 1
    assert "lower-case" in refused.stderr


def test_forgotten_images_are_freed_and_the_others_stay_whole(line: CommandLine) -> None:
    layout = Layout.open(line.home.images)
    gone, kept = layout.resolve("iris:1"), layout.resolve("iris:2")
    assert line("rm", "iris:1").returncode == 0
    assert layout.blobs.has(gone.layers[-1].digest)
    young = line("gc")
    assert young.stdout.startswith("0 B freed")
    freed = line("gc", "--older-than", "0")
    assert freed.returncode == 0, freed.stderr
    assert not layout.blobs.has(gone.layers[-1].digest)
    assert not layout.blobs.has(gone.digest)
    check_image(layout, kept)


def test_either_all_names_are_forgotten_or_none(line: CommandLine) -> None:
    refused = line("rm", "iris:1", "iris:3")
    assert refused.returncode == 1
    assert "no image 'iris:3'" in refused.stderr
    assert names(line) == {"iris:1", "iris:2"}


def test_caches_are_emptied_only_when_asked_for(line: CommandLine) -> None:
    note = line.home.cache / "layers" / "note.json"
    note.parent.mkdir(parents=True)
    note.write_text("{}")
    line("gc", "--older-than", "0")
    assert note.exists()
    line("gc", "--older-than", "0", "--caches")
    assert not note.exists()
