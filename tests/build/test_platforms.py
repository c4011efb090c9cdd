"""One project, images for two architectures, built on one machine that can run only one of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from dockyard.errors import LockError
from dockyard.oci.image import Image, Platform
from dockyard.oci.layout import Layout
from dockyard.oci.unpack import unpack_layer
from dockyard.spec.home import Home
from tests.support.projects import MANIFEST, CommandLine, write_adder
from tests.support.registry import running_registry

AARCH64 = 183  # e_machine
BOTH = "linux/amd64,linux/arm64"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adder(tmp_path_factory.mktemp("both"), MANIFEST.replace('name = "adder"', 'name = "both"'))


@pytest.fixture(scope="module")
def images(home: Home, project: Path) -> dict[str, Image]:
    done = CommandLine(home)("build", str(project), "--platform", BOTH, "--json")
    assert done.returncode == 0, done.stderr
    layout = Layout.open(home.images)
    told = json.loads(done.stdout)
    found = {name: layout.resolve("both:1", Platform("linux", name)) for name in ("amd64", "arm64")}
    assert [one["digest"] for one in told] == [found["amd64"].digest, found["arm64"].digest]
    return found


@pytest.fixture(scope="module")
def trees(home: Home, images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every layer of both images, unpacked side by side."""
    layout, folder = Layout.open(home.images), tmp_path_factory.mktemp("trees")
    for name, image in images.items():
        for number, layer in enumerate(image.layer_blobs):
            with layout.blobs.open(layer.descriptor.digest) as stream:
                unpack_layer(stream, layer.descriptor.media_type, folder / name / str(number), diff_id=layer.diff_id)
    return {name: folder / name for name in images}


def programs(tree: Path) -> dict[str, int]:
    """The machine of every ELF file."""
    machines = {}
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                start = file.read(20)
            if start.startswith(b"\x7fELF"):
                machines[path.name] = int.from_bytes(start[18:20], "little")
    return machines


def test_each_image_is_for_its_architecture_alone(images: dict[str, Image], trees: dict[str, Path]) -> None:
    assert images["arm64"].config.platform == Platform("linux", "arm64")
    found = programs(trees["arm64"])
    assert len(found) > 50
    assert set(found.values()) == {AARCH64}
    assert AARCH64 not in programs(trees["amd64"]).values()


def test_bytecode_is_the_same_for_both(trees: dict[str, Path]) -> None:
    """It is compiled by one Python for both, and depends on nothing else."""
    compiled = {
        name: {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*.pyc")}
        for name, tree in trees.items()
    }
    shared = compiled["amd64"].keys() & compiled["arm64"].keys()
    assert len(shared) > 500
    differing = {
        path for path in shared
        if compiled["amd64"][path] != compiled["arm64"][path]
        and _source(trees["amd64"], path) == _source(trees["arm64"], path)
    }  # fmt: skip
    assert differing == set()


def _source(tree: Path, compiled: str) -> bytes:
    path = tree / compiled
    return (path.parent.parent / f"{path.name.split('.')[0]}.py").read_bytes()


def test_code_weights_and_berth_are_shared_or_equal(images: dict[str, Image]) -> None:
    amd64, arm64 = (image.config.diff_ids for image in images.values())
    assert amd64[-2:] == arm64[-2:]  # berth and code
    assert amd64[0] != arm64[0]


def test_a_second_build_is_the_same_and_keeps_the_lock(home: Home, project: Path, images: dict[str, Image]) -> None:
    lock = (project / "dockyard.lock").read_bytes()
    done = CommandLine(home)("build", str(project), "--platform", BOTH, "--locked", "--json")
    assert [one["digest"] for one in json.loads(done.stdout)] == [image.digest for image in images.values()]
    assert (project / "dockyard.lock").read_bytes() == lock


def test_an_index_travels_through_a_registry(home: Home, images: dict[str, Image], tmp_path: Path) -> None:
    line, other = CommandLine(home), Layout.create(tmp_path / "other")
    with running_registry(tmp_path / "registry") as registry:
        reference = f"{registry.host}/models/both:1"
        pushed = line("push", "both:1", reference)
        assert pushed.returncode == 0, pushed.stderr
        words = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"]
        index = json.loads(subprocess.run(words, check=True, capture_output=True, timeout=60).stdout)
        assert {one["digest"] for one in index["manifests"]} == {image.digest for image in images.values()}
        for name, image in images.items():
            copy = ["skopeo", "--insecure-policy", "--override-arch", name, "copy", "--src-tls-verify=false"]
            words = [*copy, f"docker://{reference}", f"oci:{other.path}:{name}"]
            subprocess.run(words, check=True, capture_output=True, timeout=120)
            assert other.resolve(name, Platform("linux", name)).digest == image.digest


def test_an_index_is_signed_with_all_its_images(home: Home, images: dict[str, Image], tmp_path: Path) -> None:
    line, key = CommandLine(home), str(tmp_path / "own.key")
    line("keygen", "--key", key, "--unencrypted")
    assert "with 6 documents" in line("sign", "both:1", "--key", key).stdout
    verified = line("verify", "both:1", "--key", str(tmp_path / "own.pub"), "--require", "sbom", "--json")
    assert verified.returncode == 0, verified.stderr
    assert [one["digest"] for one in json.loads(verified.stdout)["images"]] == [one.digest for one in images.values()]


def test_a_package_without_a_wheel_for_one_platform_is_named_before_anything_is_fetched(tmp_path: Path) -> None:
    manifest = f'{MANIFEST}\n[build]\nrequirements = ["intel-openmp==2024.2.1"]\n'
    project, empty = write_adder(tmp_path / "project", manifest), Home(tmp_path / "home")
    refused = CommandLine(empty)("build", str(project), "--platform", BOTH)
    assert refused.returncode == LockError.exit_code
    assert "intel-openmp" in refused.stderr
    assert "aarch64" in refused.stderr or "arm64" in refused.stderr
    assert not list(empty.cache.glob("packages/*.deb"))
    assert Layout.open(empty.images).images() == ()


@pytest.mark.parametrize("platform", ["linux/riscv64", "windows/amd64", "amd64", ""])
def test_a_platform_that_nothing_is_built_for_is_refused(project: Path, tmp_path: Path, platform: str) -> None:
    refused = CommandLine(Home(tmp_path))("build", str(project), "--platform", platform)
    assert refused.returncode in (1, 2)
    assert "linux/amd64" in refused.stderr
