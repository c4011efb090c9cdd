"""`dockyard plan` tells what a build would do, and does none of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import berth
from dockyard.spec.home import Home
from tests.support.projects import MANIFEST, PREDICTOR, CommandLine, build_in, write_adder
from tests.support.registry import running_registry
from tests.support.wheels import write_wheel

WEIGHTS = MANIFEST.replace("[run]", 'weights = "offset.bin"\n[run]')


@dataclass(frozen=True)
class Planner:
    """A project with an image, and the command line."""

    folder: Path
    line: CommandLine
    built: Any

    def __call__(self, *words: str, code: int = 0) -> Any:
        """What `dockyard plan --json` says; it must leave the project as it is."""
        before = snapshot(self.folder)
        done = self.line("plan", str(self.folder), "--json", *words)
        assert done.returncode == code, done.stderr
        assert snapshot(self.folder) == before
        return json.loads(done.stdout)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
        if path.stat().st_size < 1 << 30
    }


def kinds(plan: Any, key: str = "changes") -> list[str]:
    return [one["kind"] for one in plan[key]]


@pytest.fixture
def planner(tmp_path: Path, dockyard: CommandLine, request: pytest.FixtureRequest) -> Planner:
    name = f"planned-{abs(hash(request.node.name)) % 10_000}"
    folder = write_adder(tmp_path / "project", WEIGHTS.replace('"adder"', f'"{name}"'))
    (folder / "offset.bin").write_bytes(b"0.5" * 100)
    done = dockyard("build", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    return Planner(folder, dockyard, json.loads(done.stdout))


def test_before_the_first_build_sizes_are_estimates_and_nothing_is_written(tmp_path: Path, short_path: Path) -> None:
    folder = write_adder(tmp_path)
    plan = Planner(folder, CommandLine(Home(short_path)), None)()
    assert (plan["lock"], plan["last_image"]) == ("missing", None)
    assert {"numpy", "msgspec"} <= set(plan["wheels"])
    assert plan["left_out"] == ["tests", "sources in C", "debug information"]
    assert "libc6" in plan["packages"]
    layers = {layer["title"]: layer for layer in plan["layers"]}
    assert list(layers) == ["Debian and Python", "Python dependencies", "berth", "code"]
    assert all(layer["estimated"] and layer["digest"] is None for layer in layers.values())
    assert 10e6 < layers["Debian and Python"]["bytes"] < 30e6
    assert 15e6 < layers["Python dependencies"]["bytes"] < 40e6
    assert plan["push"]["bytes"] == sum(layer["bytes"] for layer in layers.values())
    assert not (folder / "dockyard.lock").exists()
    assert not list((short_path / "cache").glob("packages/*.deb"))


def test_after_a_build_the_layers_are_known_exactly_and_nothing_changes(planner: Planner) -> None:
    plan = planner()
    told = [(layer["title"], layer["bytes"], layer["digest"]) for layer in plan["layers"]]
    assert told == [(layer["title"], layer["size"], layer["digest"]) for layer in planner.built["layers"]]
    assert (plan["lock"], plan["changes"], plan["push"]["layers"]) == ("locked", [], [])
    assert plan["last_image"] == planner.built["digest"]
    words = planner.line("plan", str(planner.folder)).stdout
    assert "Nothing has changed since the last image." in words
    assert "A push would send no layer" in words


def test_an_edit_an_addition_and_a_removal_are_named(planner: Planner) -> None:
    (planner.folder / "predictor.py").write_text(PREDICTOR + "\n")
    (planner.folder / "added.txt").write_text("new")
    (planner.folder / "goldens" / "one.json").unlink()
    plan = planner()
    assert [one["what"] for one in plan["changes"]] == [
        "added.txt added", "goldens/one.json removed", "predictor.py edited",
    ]  # fmt: skip
    assert set(kinds(plan)) == {"code"}
    assert (plan["push"]["layers"], plan["push"]["estimated"]) == (["code"], True)
    assert 0 < plan["push"]["bytes"] < 10_000


def test_changed_weights_are_told_apart_from_code(planner: Planner) -> None:
    (planner.folder / "offset.bin").write_bytes(b"0.25")
    plan = planner()
    assert [(one["kind"], one["what"]) for one in plan["changes"]] == [("weights", "offset.bin edited")]
    assert plan["push"]["layers"] == ["weights: offset.bin"]


def test_a_changed_requirement_is_resolved_and_the_lock_stays(planner: Planner) -> None:
    manifest = planner.folder / "dockyard.toml"
    manifest.write_text(f'{manifest.read_text()}\n[build]\nrequirements = ["idna==3.10"]\n')
    plan = planner()
    assert plan["lock"] == "out of date"
    assert plan["wheels"]["idna"] == "3.10"
    assert {"kind": "requirements", "what": "build.requirements", "before": "", "after": "idna==3.10"} in plan[
        "changes"
    ]
    assert {"kind": "python-package", "what": "idna", "before": "", "after": "3.10"} in plan["changes"]
    assert plan["push"]["layers"] == ["Python dependencies"]


def test_another_version_of_berth_is_told(planner: Planner, tmp_path: Path) -> None:
    shutil.copytree(Path(berth.__file__).parent, tmp_path / "other" / "berth")
    (tmp_path / "other" / "berth" / "extra.py").write_text("")
    other = replace(planner.line, environment={"PYTHONPATH": str(tmp_path / "other")})
    plan = replace(planner, line=other)()
    assert kinds(plan) == ["berth"]
    assert plan["push"]["layers"] == ["berth"]


def test_an_image_without_provenance_is_compared_by_its_layers(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path)
    build_in(folder, home, "bare:1")
    (folder / "predictor.py").write_text(PREDICTOR + "\n")
    done = CommandLine(home)("plan", str(folder), "--name", "bare:1")
    assert "these layers differ: code" in done.stdout
    assert "has no provenance" in done.stdout


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with running_registry(tmp_path / "registry") as address:
        yield address.host


def test_a_registry_is_asked_what_it_lacks(planner: Planner, registry: str) -> None:
    target = f"{registry}/team/planned:1"
    everything = [layer["title"] for layer in planner.built["layers"]]
    assert planner("--against", target)["push"]["layers"] == everything
    name = planner.built["name"]
    assert planner.line("push", name, target).returncode == 0
    assert planner("--against", target)["push"] == {"against": target, "layers": [], "bytes": 0, "estimated": False}
    (planner.folder / "predictor.py").write_text(PREDICTOR + "\n")
    assert planner("--against", target)["push"]["layers"] == ["code"]


def test_another_platform_is_planned_too(tmp_path: Path, dockyard: CommandLine) -> None:
    plans = Planner(write_adder(tmp_path), dockyard, None)("--platform", "linux/amd64,linux/arm64")
    assert [plan["platform"] for plan in plans] == ["linux/amd64", "linux/arm64"]


# --- warnings --------------------------------------------------------------------------------------------------------


def warned(planner: Planner, kind: str, level: str, code: int = 0) -> str:
    (found,) = (one for one in planner(code=code)["problems"] if one["kind"] == kind)
    assert found["level"] == level
    return f"{found['what']} {found['remedy']}"


def project(folder: Path, line: CommandLine, requirements: str, more: str = "") -> Planner:
    text = f"{MANIFEST}\n[build]\nrequirements = {requirements}\n{more}"
    return Planner(write_adder(folder, text), line, None)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


def test_cuda_wheels_for_a_cpu_are_told_with_their_size(tmp_path: Path, dockyard: CommandLine, wheels: Path) -> None:
    noise = os.urandom(1_000_000).hex()  # two million bytes, stored as they are
    write_wheel(wheels, "nvidia_dy_blas_cu12", "12.1", {"nvidia/blas.txt": noise})
    write_wheel(wheels, "dy_torch", "2.1+cu118", {"dy_torch.py": ""})
    text = warned(project(tmp_path / "p", dockyard, '["nvidia-dy-blas-cu12", "dy-torch"]'), "cuda", "warning")
    assert "2 wheels for CUDA were resolved, 2 MB: dy-torch, nvidia-dy-blas-cu12" in text


def test_a_requirement_without_a_bound_is_noted(tmp_path: Path, dockyard: CommandLine) -> None:
    planner = project(tmp_path, dockyard, '"requirements.txt"')
    (tmp_path / "requirements.txt").write_text("# ours\nidna\nmsgspec>=0.19  # bounded\n--no-binary x\n")
    assert "no bound on the version of idna " in warned(planner, "unpinned", "note")
    planner = project(tmp_path, dockyard, '["idna>=3"]')
    assert "unpinned" not in kinds(planner(), "problems")


def test_a_pickle_is_named_with_its_risk(tmp_path: Path, dockyard: CommandLine) -> None:
    folder = write_adder(tmp_path, MANIFEST.replace("[run]", 'weights = "m.pkl"\n[run]'))
    (folder / "m.pkl").write_bytes(b"\x80\x04N.")
    assert "can run code in the container" in warned(Planner(folder, dockyard, None), "pickle", "warning")


def test_a_system_library_that_no_file_shows_is_named_until_it_is_there(
    tmp_path: Path, dockyard: CommandLine, wheels: Path
) -> None:
    write_wheel(wheels, "python_magic", "0.99", {"magic.py": ""})
    text = warned(project(tmp_path / "p", dockyard, '["python-magic==0.99"]'), "system-library", "warning")
    assert "libmagic.so.1" in text
    assert 'packages = ["libmagic1"]' in text
    there = project(tmp_path / "p", dockyard, '["python-magic==0.99"]', 'packages = ["libmagic1"]\n')
    assert "system-library" not in kinds(there(), "problems")


def test_a_library_that_the_build_will_add_is_noted(tmp_path: Path, dockyard: CommandLine, wheels: Path) -> None:
    write_wheel(wheels, "opencv_python", "99.0", {"cv2/__init__.py": ""})
    text = warned(project(tmp_path / "p", dockyard, '["opencv-python==99.0"]'), "system-library", "note")
    assert "libGL.so.1" in text
    assert "libgl1" in text


def test_a_folder_of_gigabytes_is_named_with_its_size(tmp_path: Path, dockyard: CommandLine) -> None:
    planner = Planner(write_adder(tmp_path), dockyard, None)
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "train.bin").open("wb") as stream:
        stream.truncate(3_000_000_000)  # a hole, which takes no space
    text = warned(planner, "large-folder", "error", code=1)
    assert "data has 3,000 MB" in text
    assert 'exclude = ["data"]' in text


def test_what_would_be_refused_ends_with_1_and_the_same_words_as_the_build(planner: Planner) -> None:
    (planner.folder / "id_rsa").write_text("a key")
    (planner.folder / "predictor.py").write_text("import torch\n" + PREDICTOR)
    plan = planner(code=1)
    assert [one["kind"] for one in plan["problems"] if one["level"] == "error"] == ["secret", "missing-module"]
    assert plan["problems"][0]["what"] in planner.line("build", str(planner.folder)).stderr
