"""What goes wrong around a command (files, folders, disks, names): told without a traceback, nothing left half done."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.build.builder import Built
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.support.projects import MANIFEST, CommandLine, write_adder

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def assert_refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "error: " in done.stderr
    assert [part for part in said if part not in done.stderr] == [], done.stderr


# Under a name of its own: a command that gives none to the image must not move the `adder:1` that all tests share.
FAULTY = MANIFEST.replace('"adder"', '"faulty"')


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The adder, in a folder of its own."""
    return write_adder(tmp_path / "project", FAULTY)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("name", ["dockyard.toml", "dockyard.lock"])
def test_a_folder_where_a_file_should_be_is_told(dockyard: CommandLine, project: Path, name: str) -> None:
    (project / name).unlink(missing_ok=True)
    (project / name).mkdir()
    assert_refused(dockyard("build", str(project)), str(project / name))


def test_a_name_that_no_engine_accepts_is_told_before_anything_is_built(tmp_path: Path, project: Path) -> None:
    line = CommandLine(Home(tmp_path / "home"))
    for name in ("Adder", "a b", ":", "adder:1 beta", "-x:1"):
        assert_refused(line("build", str(project), f"--name={name}"), repr(name), "iris:1.2")
    assert not (line.home.cache / "layers").exists()


def test_outputs_that_cannot_be_written_are_told_before_anything_is_built(tmp_path: Path, project: Path) -> None:
    line = CommandLine(Home(tmp_path / "home"))
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for name, said in (
        ("folder.tar", "is a folder"),
        ("file", "is no OCI layout"),
        ("full", "is no OCI layout"),
        ("x.zip", "neither a .tar file nor a folder"),
    ):
        assert_refused(line("build", str(project), "--output", str(tmp_path / name)), name, said)
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]
    assert not (line.home.cache / "layers").exists()


def test_an_output_in_a_folder_that_is_not_there_makes_it_and_replaces_an_older_one(
    dockyard: CommandLine, adder: Built, project: Path, tmp_path: Path
) -> None:
    assert adder.image
    output = tmp_path / "new" / "deeper" / "adder.tar"
    for old in (b"", b"an older one"):
        if old:
            output.write_bytes(old)
        done = dockyard("build", str(project), "--name", "faulty:out", "--output", str(output))
        assert done.returncode == 0, done.stderr
        assert output.stat().st_size > 10_000_000
        assert [path.name for path in output.parent.iterdir()] == ["adder.tar"]
    assert dockyard("build", str(project), "--output", str(tmp_path / "new" / "layout")).returncode == 0
    assert Layout.open(tmp_path / "new" / "layout").images()


@needs_root
@pytest.mark.parametrize("name", ["adder.tar", "layout"])
def test_an_output_on_a_full_disk_is_told_and_leaves_no_image(
    dockyard: CommandLine, adder: Built, project: Path, small_disk: Path, name: str
) -> None:
    assert adder.image
    assert_refused(dockyard("build", str(project), "--output", str(small_disk / name)), "is full", "Free some space")
    left = [path for path in small_disk.rglob("*") if path.is_file() and path.stat().st_size > 100_000]
    assert left == []
    assert name != "layout" or Layout.open(small_disk / name).images() == ()


@needs_root
@pytest.mark.parametrize("fetched", [True, False], ids=["packages are there", "nothing is there"])
def test_a_build_on_a_full_disk_is_told_and_leaves_no_image(
    adder: Built, home: Home, project: Path, small_disk: Path, fetched: bool
) -> None:
    assert adder.image
    line = CommandLine(Home(small_disk / "home"))
    (small_disk / "home" / "cache").mkdir(parents=True)
    for folder in home.cache.glob("packages") if fetched else ():
        (line.home.cache / folder.name).symlink_to(folder)
    for folder in home.cache.glob("apt-*") if fetched else ():
        (line.home.cache / folder.name).symlink_to(folder)
    assert_refused(line("build", str(project)), "is full", "Free some space")
    assert Layout.open(line.home.images).images() == ()
    assert not (project / "dockyard.lock").exists()


def test_a_home_that_cannot_be_used_is_told(project: Path) -> None:
    for home in ("/proc/nowhere", "/dev/null/x"):
        for words in (("build", str(project)), ("images",), ("run", "adder")):
            assert_refused(CommandLine(Home(Path(home)))(*words), home)


def test_folders_that_cannot_be_made_are_told(dockyard: CommandLine) -> None:
    assert_refused(dockyard("init", "/proc/nowhere"), "/proc/nowhere")


def test_a_damaged_store_is_told_and_its_file_named(adder: Built, home: Home, project: Path, tmp_path: Path) -> None:
    line = CommandLine(Home(tmp_path / "home"))
    shutil.copytree(home.images, line.home.images)
    assert adder.image
    index = line.home.images / "index.json"
    whole = index.read_bytes()
    for broken in (b"", b"{", b"[]", b'{"schemaVersion": 2, "manifests": [3]}'):
        index.write_bytes(broken)
        for words in (("images",), ("run", "adder:1"), ("build", str(project))):
            assert_refused(line(*words), str(index))
    index.write_bytes(whole)
    store = Layout.open(line.home.images)
    digest = store.resolve("adder:1").digest
    store.blobs.path(digest).write_bytes(b"{}")
    assert_refused(line("run", "adder:1"), digest, "damaged")


def test_a_damaged_layer_is_found_when_it_is_used(adder: Built, home: Home, tmp_path: Path) -> None:
    assert adder.image
    line = CommandLine(Home(tmp_path / "home"))
    shutil.copytree(home.images, line.home.images)
    store = Layout.open(line.home.images)
    digest = store.resolve("adder:1").layers[-1].digest
    layer = store.blobs.path(digest)
    layer.write_bytes(layer.read_bytes()[:-1])
    assert_refused(line("run", "adder:1", "--engine", "runc"), "damaged", digest)


def test_an_unreachable_debian_mirror_is_named(tmp_path: Path) -> None:
    folder = write_adder(
        tmp_path / "p", f'{FAULTY}\n[build]\nmirror = "http://127.0.0.1:9/debian"\nsuite = "bookworm"\n'
    )
    done = CommandLine(Home(tmp_path / "home"))("build", str(folder))
    assert_refused(done, "cannot reach the Debian mirror http://127.0.0.1:9/debian\n", "Check the network")


def test_an_unreachable_package_index_is_told(home: Home, adder: Built, tmp_path: Path) -> None:
    assert adder.image
    folder = write_adder(tmp_path / "p", f'{FAULTY}\n[build]\nrequirements = ["idna==3.10"]\n')
    nowhere = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_CACHE_DIR": str(tmp_path / "uv")}
    cut_off = {**nowhere, "UV_FIND_LINKS": "", "UV_INDEX": "", "UV_NO_CONFIG": "1", "UV_HTTP_RETRIES": "0"}
    assert_refused(CommandLine(home, cut_off)("build", str(folder)), "the package index could not be reached")


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:port", "http://[::1", "https://:80"])
def test_what_is_no_url_is_told(dockyard: CommandLine, url: str) -> None:
    assert_refused(dockyard("predict", url, "-i", "a=1"), "is not a URL", "http://127.0.0.1:8080")


def test_a_terminal_gets_colours_and_who_wants_none_gets_none(home: Home) -> None:
    def seen(**more: str) -> bytes:
        line = CommandLine(home)
        ours, terminal = os.openpty()
        try:
            done = subprocess.run(
                line.command("inspect", "nothing:1"),
                env=line.variables() | more,
                stderr=terminal,
                check=False,
                timeout=30,
            )
            assert done.returncode == 1
            return os.read(ours, 4096)
        finally:
            os.close(ours)
            os.close(terminal)

    assert b"\x1b[" in seen()
    plain = seen(NO_COLOR="1")
    assert b"\x1b[" not in plain
    assert b"error: " in plain
