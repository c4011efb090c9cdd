"""An image is built again from what it recorded, and compared; inspect and diff tell people what is inside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.support.projects import MANIFEST, PREDICTOR, CommandLine, write_adder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adder(tmp_path_factory.mktemp("again"), MANIFEST.replace('name = "adder"', 'name = "again"'))


@pytest.fixture(scope="module")
def line(home: Home, project: Path) -> CommandLine:
    command = CommandLine(home)
    done = command("build", str(project))
    assert done.returncode == 0, done.stderr
    return command


@pytest.mark.slow
def test_an_image_is_equal_when_it_is_built_again_from_nothing(line: CommandLine, project: Path) -> None:
    done = line("verify", "again:1", "--rebuild", str(project))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("equal: linux/")
    assert not list(line.home.root.glob("rebuild-*"))


def test_a_project_that_changed_since_is_told_by_its_files(line: CommandLine, project: Path, tmp_path: Path) -> None:
    changed = write_adder(tmp_path / "changed", (project / "dockyard.toml").read_text(), PREDICTOR + "\n# changed\n")
    (changed / "extra.py").write_text("")
    refused = line("verify", "again:1", "--rebuild", str(changed))
    assert refused.returncode == 1
    assert "predictor.py differs" in refused.stderr
    assert "extra.py differs" in refused.stderr


def test_an_image_without_provenance_cannot_be_rebuilt(line: CommandLine, project: Path) -> None:
    assert line("build", str(project), "--name", "bare:1", "--no-evidence").returncode == 0
    layout = Layout.open(line.home.images)
    assert layout.resolve("bare:1").digest == layout.resolve("again:1").digest
    for artifact in layout.referrers(layout.resolve("bare:1").digest):
        layout.detach(artifact)
    refused = line("verify", "bare:1", "--rebuild", str(project))
    assert refused.returncode == 1
    assert "has no provenance" in refused.stderr
    assert line("build", str(project)).returncode == 0


def test_inspect_tells_people_and_programs(line: CommandLine) -> None:
    told = json.loads(line("inspect", "again:1", "--json").stdout)
    (image,) = told["images"]
    assert image["os"].startswith("debian ")
    assert {"numpy", "msgspec"} <= set(image["python"])
    assert "libc6" in image["system"]
    assert image["documents"] == ["sbom", "model-card", "provenance"]
    shown = line("inspect", "again:1").stdout
    assert "model      again 1" in shown
    assert "Debian and Python" in shown
    document = json.loads(line("inspect", "again:1", "--document", "sbom").stdout)
    assert document["bomFormat"] == "CycloneDX"
    missing = line("inspect", "again:1", "--document", "scan")
    assert missing.returncode == 1
    assert "has no scan" in missing.stderr


def test_diff_tells_what_changed(line: CommandLine, tmp_path: Path) -> None:
    manifest = MANIFEST.replace('name = "adder"', 'name = "again"').replace('version = "1"', 'version = "2"')
    other = write_adder(tmp_path / "other", manifest + '\n[environment]\nMODE = "fast"\n', PREDICTOR + "\n# two\n")
    assert line("build", str(other)).returncode == 0
    difference = json.loads(line("diff", "again:1", "again:2", "--json").stdout)
    assert {"name": "MODE", "before": "", "after": "fast"} in difference["settings"]
    assert [one["name"] for one in difference["layers"]] == ["code"]
    changed = {one["name"] for one in difference["files"]}
    assert "app/predictor.py" in changed
    assert not any(name.startswith("usr/") for name in changed)
    assert "+ MODE  fast" in line("diff", "again:1", "again:2").stdout
    assert (difference["signature"], difference["goldens"], difference["expected"]) == ([], [], [])
    assert "are the same image" in line("diff", "again:1", "again:1").stdout


def test_diff_tells_what_callers_must_know(line: CommandLine, tmp_path: Path) -> None:
    manifest = MANIFEST.replace('name = "adder"', 'name = "again"').replace('version = "1"', 'version = "3"')
    predictor = PREDICTOR.replace("right: float = 1.0) -> float", "right: float = 2.0, unit: str = 'm') -> int")
    other = write_adder(tmp_path / "other", manifest, predictor)
    (other / "goldens/one.json").write_text('{"inputs": {"left": 1.0, "right": 2.0}, "outputs": 4}')
    (other / "goldens/two.json").write_text('{"inputs": {"left": 0.0}, "outputs": 2}')
    assert line("build", str(other)).returncode == 0
    difference = json.loads(line("diff", "again:1", "again:3", "--json").stdout)
    assert difference["signature"] == [
        {"name": "predict ->", "before": "float", "after": "int"},
        {"name": "predict(right)", "before": "float = 1.0", "after": "float = 2.0"},
        {"name": "predict(unit)", "before": "", "after": "str = 'm'"},
    ]
    assert difference["goldens"] == [{"name": "two", "before": "", "after": '{"inputs":{"left":0.0}}'}]
    assert difference["expected"] == [{"name": "one", "before": "3.5", "after": "4"}]
    shown = line("diff", "again:1", "again:3").stdout
    assert "~ predict ->  float -> int" in shown
    assert "+ two" in shown
    assert "~ one  3.5 -> 4" in shown
