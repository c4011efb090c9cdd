"""`dockyard batch`: rows through an image in a container, on both engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.build.builder import Built
from dockyard.spec.home import Home
from tests.support.projects import CommandLine, build_in, write_adder

FILES = """\
import os
import socket
import time

import berth


class Files:
    def predict(self, file: berth.File, pause: float = 0.05) -> list[str]:
        time.sleep(pause)
        return [file.name, file.data.decode(), str(os.getuid()), ",".join(name for _, name in socket.if_nameindex())]
"""
MANIFEST = """\
[model]
name = "files"
version = "1"
predictor = "predictor:Files"

[run]
memory = "256MiB"
"""


@pytest.fixture(scope="module")
def files(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An image whose predictor takes files, slowly."""
    return build_in(write_adder(tmp_path_factory.mktemp("files"), MANIFEST, FILES), home, "files:1")


@pytest.fixture(params=["docker", "runc"])
def line(request: pytest.FixtureRequest, home: Home, dockerd: str, adder: Built, files: Built) -> Iterator[CommandLine]:
    """The command line, with the one engine that DOCKYARD_ENGINE names."""
    assert adder.image
    assert files.image
    address = {"DOCKER_HOST": dockerd} if request.param == "docker" else {"DOCKER_HOST": ""}
    command = CommandLine(home, {**address, "DOCKYARD_ENGINE": request.param})
    yield command
    listed = json.loads(command("ps", "--json", "--engine", request.param).stdout)
    assert [one for one in listed if one["name"].startswith("batch-")] == [], "nothing is left behind"


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in text.splitlines()]


def test_rows_of_a_file_are_answered_and_a_failed_one_is_told(line: CommandLine, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"left": value}) + "\n" for value in (1, -1, 3)))
    done = line("batch", "adder:1", str(source), "-o", str(output))
    assert done.returncode == 3, done.stderr
    first, second, third = rows(output.read_text())
    assert (first, third) == ({"row": 1, "output": 2.5}, {"row": 3, "output": 4.5})
    assert "left" in second["error"]
    assert "3 rows (100%), 1 failed" in done.stderr
    assert output.stat().st_uid == os.getuid()
    again = line("batch", "adder:1", str(source), "-o", str(output))
    assert again.returncode == 3
    assert "1 rows had failed before" in again.stderr
    assert len(rows(output.read_text())) == 3
    source.write_text('{"left": 1}\n')
    changed = line("batch", "adder:1", str(source), "-o", str(output))
    assert changed.returncode == 1
    assert "the input has changed" in changed.stderr
    assert line("batch", "adder:1", str(source), "-o", str(output), "--restart").returncode == 0
    assert rows(output.read_text()) == [{"row": 1, "output": 2.5}]
    other = line("batch", "files:1", str(source), "-o", str(output))
    assert other.returncode == 1
    assert "begun with image sha256:" in other.stderr


def test_csv_comes_through_pipes(line: CommandLine) -> None:
    words = ("batch", "adder:1", "-", "-f", "csv", "--delimiter", ";", "--ignore", "id", "-e", "BERTH_WORKERS=1")
    done = line(*words, stdin="id;left;right\na;1;2\nb;2;\n")
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout) == [{"row": 1, "output": 3.5}, {"row": 2, "output": 3.5}]


def test_a_large_input_streams_both_ways(line: CommandLine, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with source.open("w") as file:
        for value in range(2000):
            file.write(json.dumps({"left": value}) + " " * 1000 + "\n")
    done = line("batch", "adder:1", str(source), "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert [row["output"] for row in rows(output.read_text())] == [value + 1.5 for value in range(2000)]


def test_a_stopped_batch_over_a_folder_goes_on_in_a_hardened_container(line: CommandLine, tmp_path: Path) -> None:
    folder, output = tmp_path / "files", tmp_path / "out.jsonl"
    (folder / "b").mkdir(parents=True)
    names = sorted([f"{number:03}" for number in range(59)] + ["b/ä"])
    for name in names:
        (folder / name).write_text(name * 300)
    process = subprocess.Popen(
        line.command("batch", "files:1", str(folder), "-o", str(output)),
        env=line.variables(), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    give_up = time.monotonic() + 90
    while not (output.exists() and output.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < give_up
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=90)
    there = rows(output.read_text())
    assert process.returncode == 130, stderr
    assert 3 <= len(there) < 60
    assert f"stopped after row {len(there)}. The same command goes on from there." in stderr
    done = line("batch", "files:1", str(folder), "-o", str(output))
    assert done.returncode == 0, done.stderr
    answers = rows(output.read_text())
    assert [(row["row"], row["file"]) for row in answers] == list(enumerate(names, 1))
    assert [row["output"] for row in answers] == [[name, name * 300, "65532", "lo"] for name in names]


def test_a_batch_that_cannot_begin_says_why(line: CommandLine, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("lft\n1\n")
    done = line("batch", "adder:1", str(source))
    assert done.returncode == 1
    assert "did you mean 'left'?" in done.stderr
    assert "exit code 1 after row 0" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ader:1", "-"), "no image 'ader:1'"),
        (("adder:1", "/no/such"), "/no/such does not exist"),
        (("adder:1", "-", "-o", "/no/such/out"), "/no/such/out cannot be written"),
        (("adder:1", "-", "--ignore", "x"), "are for CSV"),
    ],
)
def test_wrong_words_are_told(home: Home, adder: Built, words: tuple[str, ...], said: str) -> None:
    assert adder.image
    done = CommandLine(home)("batch", *words)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
