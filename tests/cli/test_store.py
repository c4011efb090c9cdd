"""The store as a user keeps it: tag, rm, gc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dockyard.engines.runc.engine import RuncEngine
from dockyard.oci.digest import hex_of
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


@pytest.mark.skipif(os.geteuid() != 0, reason="runc needs root")
async def test_what_runc_unpacked_of_images_that_are_gone_is_freed_too(line: CommandLine) -> None:
    layout = Layout.open(line.home.images)
    gone, kept = layout.resolve("iris:1"), layout.resolve("iris:2")
    engine = RuncEngine(line.home.runc, Path("/usr/sbin/runc"))
    for image in (gone, kept):
        await engine.load(image, layout, "iris")
    records = {image: line.home.runc / "layers" / f"{hex_of(image.config.diff_ids[-1])}.json" for image in (gone, kept)}
    line("gc", "--older-than", "0")
    assert [record.exists() for record in records.values()] == [True, True]
    line("rm", "iris:1")
    line("gc")
    assert [record.exists() for record in records.values()] == [True, True], "it was loaded a moment ago"
    line("gc", "--older-than", "0")
    assert [record.exists() for record in records.values()] == [False, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="runc needs root")
def test_the_sum_has_what_runc_freed(line: CommandLine) -> None:
    line("gc", "--older-than", "0", "--caches")
    layer = line.home.runc / "layers" / ("0" * 64)
    layer.mkdir(parents=True)
    (layer / "weights").write_bytes(b"x" * (3 << 20))
    assert line("gc").stdout == "0 B freed\n"
    assert line("gc", "--older-than", "0").stdout == "3.1 MB freed\n"
    assert not layer.exists()


def test_no_engine_is_loaded_where_none_was_used(line: CommandLine) -> None:
    code = "import sys, dockyard.cli.gc as gc; gc.command([], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=line.variables(), capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert not [name for name in loaded if name.startswith(("aiodocker", "aiohttp", "dockyard.engines.runc"))]
    assert not line.home.runc.exists()
