"""The tutorial, followed to the letter by a shell: its files, its commands, its answers. On runc."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from berth.goldens import Tolerance, difference
from tests.docs.pages import DOCS, Block, blocks
from tests.support.projects import CommandLine

# What a reader with runc alone gets without asking, wherever the test runs.
ON_RUNC = """\
set -eu
dockyard() {
  case "$1" in
    run|predict|test|ps|logs|stop) command dockyard "$@" --engine runc ;;
    *) command dockyard "$@" ;;
  esac
}
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the runc engine needs root")
def test_the_tutorial_can_be_followed(dockyard: CommandLine, short_path: Path) -> None:
    assert shutil.which("runc", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"), "run `make test`, which installs runc"
    folder = short_path / "iris"
    folder.mkdir()
    port = free_port()
    said = told = ""
    try:
        for block in blocks(DOCS / "tutorial.md"):
            kind, _, name = block.mark.partition(": ")
            if kind == "file":
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(block.text)
            elif kind in {"run", "fails"}:
                done = follow(block.text.replace("8080", str(port)), folder, dockyard)
                assert (done.returncode == 0) is (kind == "run"), f"{block}\n{done.stdout}{done.stderr}"
                said, told = done.stdout, done.stderr
            elif kind == "layers":
                assert layers(block.text) == layers(told)
            elif kind == "answer":
                assert difference(json.loads(block.text), last_value(said), Tolerance(1e-3, 0)) == "", str(block)
    finally:
        dockyard("stop", "--all", "--engine", "runc")


def test_the_tutorial_marks_every_command_but_the_setup() -> None:
    unmarked = [block for block in blocks(DOCS / "tutorial.md") if block.language == "sh" and not block.mark]
    assert [block.text.split("\n")[0] for block in unmarked] == ["make setup"]


def test_the_tutorials_project_is_what_the_words_say() -> None:
    """The file shown in step 5 has the keys that `dockyard init` wrote, with the one line replaced."""
    (manifest,) = (block for block in blocks(DOCS / "tutorial.md") if block.mark == "file: dockyard.toml")
    assert isinstance(manifest, Block)
    assert 'predictor = "predictor:Iris"' in manifest.text
    assert "format" not in manifest.text


def follow(commands: str, folder: Path, dockyard: CommandLine) -> subprocess.CompletedProcess[str]:
    """Run a block's lines in the project's folder."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", ON_RUNC + commands],
        cwd=folder,
        env={**dockyard.variables(), "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def layers(table: str) -> list[str]:
    """The titles of the layers that a build tells of; what is large enough for one of its own is the point of them."""
    rows = table.partition("\nlayer ")[2] or table
    return [line.split("  ")[0] for line in rows.split("\n\n")[0].splitlines()[1:]]


def last_value(text: str) -> object:
    """The JSON value at the end of an output: the last line, or what begins at the last line that opens an object."""
    lines = text.strip().split("\n")
    start = max(index for index, line in enumerate(lines) if line.startswith("{"))
    return json.loads("\n".join(lines[start:]))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
