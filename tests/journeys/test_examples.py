"""Each example, as its reader does it: train, build, test the goldens, run, ask; on both engines, the same image."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dockyard.spec.home import Home
from tests.support.projects import CommandLine

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(params=["breast-cancer", "digits", "file-type"], scope="module")
def example(request: pytest.FixtureRequest, home: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One example, copied, trained and built."""
    folder = tmp_path_factory.mktemp("examples") / request.param
    shutil.copytree(EXAMPLES / request.param, folder, ignore=shutil.ignore_patterns("*.lock", "model.*", "labels.*"))
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, capture_output=True, timeout=120)
    done = CommandLine(home)("build", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["docker", "runc"])
def test_an_example_answers_as_its_goldens_say(example: Path, engine: str, home: Home, dockerd: str) -> None:
    line = CommandLine(home, {"DOCKER_HOST": dockerd})
    tested = line("test", example.name, "--engine", engine)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    goldens = sorted((example / "goldens").glob("*.json"))
    assert f"{len(goldens)} of {len(goldens)} goldens hold" in tested.stdout

    started = line("run", example.name, "-d", "--engine", engine, "--name", f"ex-{engine}")
    assert started.returncode == 0, started.stderr
    try:
        golden = json.loads(goldens[0].read_text())
        pairs = [f"{name}={_on_the_command_line(value, example)}" for name, value in golden["inputs"].items()]
        words = [word for pair in pairs for word in ("-i", pair)]
        answer = line("predict", f"ex-{engine}", "--engine", engine, *words)
        assert answer.returncode == 0, answer.stderr
        label = "kind" if example.name == "file-type" else "label"
        assert json.loads(answer.stdout)[label] == golden["outputs"][label]
    finally:
        stopped = line("stop", f"ex-{engine}", "--engine", engine)
    assert "exit code 0" in stopped.stdout


def _on_the_command_line(value: object, example: Path) -> str:
    text = str(value)
    return f"@{example / 'goldens' / text[1:]}" if text.startswith("@") else text
