"""Other tools take what Dockyard builds: skopeo, umoci, and a real Docker Engine."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from dockyard.build.builder import Built
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.support.projects import MANIFEST, PREDICTOR, CommandLine, build_in, write_adder
from tests.support.registry import running_registry

# An image of its own: a project without a lock is locked, and so made, at another time than the adder that all share.
WRITTEN = "adder-written:1"


def run(*words: str, **options: object) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def outputs(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adder as an archive and as a layout of its own."""
    folder = tmp_path_factory.mktemp("outputs")
    project = write_adder(folder / "project")
    for output in ("adder.tar", "layout"):
        done = CommandLine(home)("build", str(project), "--name", WRITTEN, "--output", str(folder / output))
        assert done.returncode == 0, done.stderr
    return folder


def test_skopeo_inspects_the_layout_and_the_store(outputs: Path, adder: Built, home: Home) -> None:
    for place in (f"oci:{outputs / 'layout'}:1", f"oci:{home.images}:{WRITTEN}"):
        found = json.loads(run("skopeo", "inspect", place))
        assert found["Digest"] == Layout.open(home.images).resolve(WRITTEN).digest
        assert len(found["Layers"]) == len(adder.layers)


def test_umoci_unpacks_the_layout(outputs: Path) -> None:
    run("umoci", "unpack", "--rootless", "--image", f"{outputs / 'layout'}:1", str(outputs / "bundle"))
    root = outputs / "bundle" / "rootfs"
    assert (root / "app/predictor.py").read_text() == PREDICTOR
    assert (root / "usr/bin/python3").is_symlink()
    config = json.loads((outputs / "bundle" / "config.json").read_text())
    assert config["process"]["args"] == ["/usr/bin/python3", "-m", "berth", "serve"]
    assert config["process"]["user"]["uid"] == 65532


def test_skopeo_reads_the_archive_both_ways(outputs: Path, home: Home) -> None:
    image = Layout.open(home.images).resolve(WRITTEN)
    assert json.loads(run("skopeo", "inspect", f"oci-archive:{outputs / 'adder.tar'}"))["Digest"] == image.digest
    config = json.loads(run("skopeo", "inspect", "--config", f"docker-archive:{outputs / 'adder.tar'}"))
    assert config["config"]["WorkingDir"] == "/app"


def test_docker_loads_the_archive_and_runs_it(outputs: Path, home: Home, dockerd: str) -> None:
    docker = ("docker", "--host", dockerd)
    assert WRITTEN in run(*docker, "load", "--input", str(outputs / "adder.tar"))
    image = Layout.open(home.images).resolve(WRITTEN)
    assert json.loads(run(*docker, "inspect", WRITTEN))[0]["Id"] == image.image_id
    answer = run(*docker, "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", WRITTEN,
                 "predict", "-i", "left=2", "-i", "right=3")  # fmt: skip
    assert json.loads(answer) == 5.5


def test_a_second_load_moves_only_the_code(home: Home, dockerd: str, tmp_path: Path) -> None:
    line = CommandLine(home, {"DOCKER_HOST": dockerd})
    folder = write_adder(tmp_path)
    assert line("build", str(folder), "--name", "adder-load:1", "--load").returncode == 0
    (folder / "predictor.py").write_text(PREDICTOR.replace("0.5", "0.75"))
    done = line("build", str(folder), "--name", "adder-load:1", "--load")
    assert done.returncode == 0, done.stderr
    assert "1 layers" in done.stderr
    code = build_in(folder, home, "adder-load:1").layers[-1]
    assert code.blob.descriptor.size < 10_000


def test_zstd_runs_on_runc_and_an_old_docker_is_told_the_mend(home: Home, dockerd: str, tmp_path: Path) -> None:
    folder = write_adder(tmp_path, f'{MANIFEST}\n[build]\ncompression = "zstd"\n', PREDICTOR.replace("0.5", "0.125"))
    built = build_in(folder, home, "adder-zstd:1")
    assert {layer.media_type.rpartition("+")[2] for layer in built.image.layers} == {"zstd"}
    line = CommandLine(home, {"DOCKER_HOST": dockerd})
    assert line("predict", "adder-zstd:1", "--engine", "runc", "-i", "left=2").stdout.strip() == "3.125"
    loaded = line("load", "adder-zstd:1", "--engine", "docker")
    version = json.loads(run("docker", "--host", dockerd, "version", "--format", "{{json .Server.Version}}"))
    if int(version.split(".")[0]) >= 23:
        assert loaded.returncode == 0, loaded.stderr
    else:
        assert loaded.returncode == 1
        assert 'compression = "gzip"' in loaded.stderr


def test_a_second_push_moves_only_the_code_and_a_pull_brings_it_back(home: Home, tmp_path: Path) -> None:
    line = CommandLine(home)
    folder = write_adder(tmp_path / "project")
    with running_registry(tmp_path / "registry") as registry:
        reference = f"{registry.host}/team/adder:1"
        assert line("build", str(folder), "--name", "adder-push:1").returncode == 0
        first = line("push", "adder-push:1", reference)
        assert "7 of 7 layers" in first.stdout, first.stderr
        (folder / "predictor.py").write_text(PREDICTOR.replace("0.5", "0.625"))
        assert line("build", str(folder), "--name", "adder-push:1").returncode == 0
        second = line("push", "adder-push:1", reference)
        assert "1 of 7 layers" in second.stdout
        assert re.search(r", \d{1,3}\.\d kB moved", second.stdout)  # the layer, and what is said of the new image
        elsewhere = CommandLine(Home(tmp_path / "elsewhere"))
        pulled = elsewhere("pull", reference, "--name", "adder:pulled")
        assert pulled.returncode == 0, pulled.stderr
        digest = Layout.open(home.images).resolve("adder-push:1").digest
        assert digest in pulled.stdout
        assert Layout.open(elsewhere.home.images).resolve("adder:pulled").digest == digest
