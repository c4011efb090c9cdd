"""Images without a network: exported into a file, imported elsewhere, verified, and only what is missing."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from dockyard.oci.image import Platform
from dockyard.oci.integrity import check_image
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.oci.samples import sample_image
from tests.support.projects import CommandLine


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    """A home with a signed image for two platforms."""
    command = CommandLine(Home(tmp_path / "home"), {"DOCKYARD_KEY_PASSWORD": "open sesame"})
    layout = Layout.create(command.home.images)
    arm64 = sample_image(layout, "arm:1", platform=Platform("linux", "arm64"))
    layout.add_index(layout.write_index([sample_image(layout, "amd:1"), arm64]), "iris:1")
    command("keygen")
    command("sign", "iris:1")
    return command


@pytest.fixture
def bundle(line: CommandLine, tmp_path: Path) -> Path:
    file = tmp_path / "bundle.tar"
    done = line("export", "iris:1", str(file))
    assert done.returncode == 0, done.stderr
    return file


@pytest.fixture
def there(tmp_path: Path) -> CommandLine:
    return CommandLine(Home(tmp_path / "there"))


def public(line: CommandLine) -> str:
    return str(line.home.keys / "own.pub")


def test_a_bundle_brings_platforms_and_signatures(line: CommandLine, bundle: Path, there: CommandLine) -> None:
    imported = there("import", str(bundle), "--verify", "--key", public(line))
    assert imported.returncode == 0, imported.stderr
    layout = Layout.open(there.home.images)
    assert layout.entry("iris:1") == Layout.open(line.home.images).entry("iris:1")
    assert len(layout.images()) == 2
    assert there("verify", "iris:1", "--key", public(line)).returncode == 0
    assert [path.name for path in there.home.root.iterdir() if path.name.startswith("import-")] == []


def test_the_same_images_give_the_same_bytes(line: CommandLine, bundle: Path, tmp_path: Path) -> None:
    line("export", "iris:1", str(tmp_path / "again.tar"))
    assert (tmp_path / "again.tar").read_bytes() == bundle.read_bytes()


def test_skopeo_reads_a_bundle(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(bundle) as tar:
        tar.extractall(tmp_path / "layout", filter="data")
    words = ["skopeo", "inspect", f"oci:{tmp_path}/layout:iris:1"]
    assert b'"Architecture": "amd64"' in subprocess.run(words, check=True, capture_output=True, timeout=60).stdout
    assert list((tmp_path / "layout" / "keys").glob("*.pub"))


def test_nothing_comes_in_that_no_trusted_key_has_signed(bundle: Path, there: CommandLine) -> None:
    there("keygen", "--unencrypted")
    refused = there("import", str(bundle), "--verify")
    assert refused.returncode == 1
    assert "not signed by a trusted key" in refused.stderr
    assert Layout.open(there.home.images).images() == ()


def test_a_delta_has_only_what_the_other_side_lacks(
    line: CommandLine, bundle: Path, there: CommandLine, tmp_path: Path
) -> None:
    there("import", str(bundle))
    layout = Layout.open(line.home.images)
    newer = sample_image(layout, "iris:2", code=b"print('newer')\n")
    (tmp_path / "have.txt").write_text(there("export", "--list").stdout)
    done = line("export", "iris:2", str(tmp_path / "delta.tar"), "--have", str(tmp_path / "have.txt"))
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "delta.tar") as tar:
        blobs = [name for name in tar.getnames() if name.startswith("blobs/")]
    assert len(blobs) == 3  # the layer of code, the configuration, the manifest
    assert there("import", str(tmp_path / "delta.tar")).returncode == 0
    check_image(Layout.open(there.home.images), newer)
    empty = CommandLine(Home(tmp_path / "empty"))
    refused = empty("import", str(tmp_path / "delta.tar"))
    assert refused.returncode == 1
    assert "lacks blob" in refused.stderr
    assert Layout.open(empty.home.images).images() == ()


@pytest.mark.parametrize("position", [0.3, 0.6, 0.9])
def test_a_damaged_bundle_changes_nothing(bundle: Path, there: CommandLine, position: float) -> None:
    data = bytearray(bundle.read_bytes())
    place = int(len(data) * position)
    while not data[place]:
        place -= 1
    data[place] ^= 1
    bundle.write_bytes(data)
    refused = there("import", str(bundle))
    assert refused.returncode == 1, refused.stdout
    assert Layout.open(there.home.images).images() == ()


def test_a_bundle_that_is_cut_off_changes_nothing(bundle: Path, there: CommandLine) -> None:
    data = bundle.read_bytes()
    bundle.write_bytes(data[: len(data) // 2])
    assert there("import", str(bundle)).returncode == 1
    assert Layout.open(there.home.images).images() == ()


def test_an_unknown_image_writes_no_file(line: CommandLine, tmp_path: Path) -> None:
    refused = line("export", "iris:1", "rose:1", str(tmp_path / "none.tar"))
    assert refused.returncode == 1
    assert "no image 'rose:1'" in refused.stderr
    assert not (tmp_path / "none.tar").exists()
