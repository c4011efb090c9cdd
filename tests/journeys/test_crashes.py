"""Builds that are killed, that run at once, and that meet a full disk: the next one gives the same image."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.build.builder import Built
from dockyard.build.lock import write_locks
from dockyard.build.target import host_architecture
from dockyard.oci.digest import digest_of_file
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.support.projects import CommandLine, write_adder

pytestmark = pytest.mark.slow
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@pytest.fixture
def project(tmp_path: Path, adder: Built) -> Path:
    """The adder with the lock of its image, so that its digest is known."""
    folder = write_adder(tmp_path / "project")
    write_locks(folder, {f"linux/{host_architecture()}": adder.lock})
    return folder


def home_in(folder: Path, shared: Home) -> Home:
    """A new home that has what was fetched, and nothing that was made."""
    home = Home(folder)
    home.cache.mkdir(parents=True)
    for fetched in (*shared.cache.glob("packages"), *shared.cache.glob("apt-*")):
        (home.cache / fetched.name).symlink_to(fetched)
    return home


def check_whole(line: CommandLine, name: str, digest: str) -> None:
    """After `gc` the image is there, every byte of the store is right, and nothing is left lying about."""
    done = line("gc", "--older-than", "0")
    assert done.returncode == 0, done.stderr
    layout = Layout.open(line.home.images)
    assert [digest for digest in layout.blobs if digest_of_file(layout.blobs.path(digest)) != digest] == []
    assert {named.image.digest for named in layout.images()} == {digest}
    assert [*layout.blobs.partials.iterdir()] == []
    assert [path for path in line.home.cache.rglob("work-*") if "packages" not in path.parts] == []
    needed = {blob.digest for named in layout.images() for blob in named.image.blobs}
    attached = {blob.digest for one in layout.referrers(layout.resolve(name).digest) for blob in one.blobs}
    assert {*layout.blobs} == needed | attached


def test_a_build_that_is_killed_again_and_again_gives_the_same_image(
    tmp_path: Path, home: Home, adder: Built, project: Path
) -> None:
    line = CommandLine(home_in(tmp_path / "home", home))
    chance, killed = random.Random(4), 0
    started = time.monotonic()
    while time.monotonic() - started < 20:
        command = line.command("build", str(project), "--locked", "--json")
        process = subprocess.Popen(
            command, env=line.variables(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        time.sleep(chance.uniform(0.1, 3.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        if process.returncode == 0:
            break
        killed += 1
    assert killed >= 3
    done = line("build", str(project), "--locked", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] == adder.image.digest
    check_whole(line, "adder:1", adder.image.digest)


def test_builds_at_once_in_an_empty_home_give_the_same_image(
    tmp_path: Path, home: Home, adder: Built, project: Path
) -> None:
    line = CommandLine(home_in(tmp_path / "home", home))
    folders = [project, shutil.copytree(project, tmp_path / "copy"), shutil.copytree(project, tmp_path / "third")]
    running = [
        subprocess.Popen(
            line.command("build", str(folder), "--locked", "--json"),
            env=line.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    for process in running:
        stdout, stderr = process.communicate(timeout=180)
        assert process.returncode == 0, stderr
        assert json.loads(stdout)["digest"] == adder.image.digest
    check_whole(line, "adder:1", adder.image.digest)


@pytest.fixture(params=[12, 40, 75, 110, 140])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk with room for a part of what a build writes, in MB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}m", "none", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@needs_root
def test_a_disk_that_fills_up_anywhere_is_told_and_loses_nothing(
    disk: Path, home: Home, adder: Built, project: Path
) -> None:
    line = CommandLine(home_in(disk / "home", home))
    lock = (project / "dockyard.lock").read_bytes()
    done = line("build", str(project), "--locked")
    assert done.returncode == 1, done.stderr
    assert "is full" in done.stderr
    assert "Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert Layout.open(line.home.images).images() == ()
    assert (project / "dockyard.lock").read_bytes() == lock
    subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
    again = line("build", str(project), "--locked", "--json")
    assert again.returncode == 0, again.stderr
    check_whole(line, "adder:1", adder.image.digest)
