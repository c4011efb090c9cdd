"""`dockyard build --watch`, as a user sees it: real edits, each image held against a build of another process."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dockyard.build.builder import Options
from dockyard.build.content import files_to_watch, folders_to_watch
from dockyard.build.target import host_architecture
from dockyard.cli.build import Bench, Order
from dockyard.cli.watching import Session
from dockyard.dev.watcher import Watched, Watcher
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.spec.load import load_project
from tests.support.processes import children, lives
from tests.support.projects import MANIFEST, PREDICTOR, CommandLine, build_in, write_adder
from tests.support.wheels import write_wheel

DEADLINE_S = 120.0


@dataclass
class Watching:
    """A running `dockyard build --watch`; `errors` is what it said on standard error so far."""

    process: subprocess.Popen[str]
    lines: queue.Queue[str] = field(default_factory=queue.Queue)
    errors: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The next line that it prints."""
        return self.lines.get(timeout=DEADLINE_S)

    def told(self) -> dict[str, Any]:
        """The next line, of --json."""
        told: dict[str, Any] = json.loads(self.line())
        return told

    def told_of(self, name: str) -> dict[str, Any]:
        """The next line that says that this file has changed."""
        while name not in (told := self.told())["changed"]:
            pass
        return told


@contextmanager
def watching(line: CommandLine, folder: Path, *words: str) -> Iterator[Watching]:
    """It runs until it is interrupted, and ends with code 0 then."""
    process = subprocess.Popen(
        line.command("build", str(folder), "--watch", *words),
        env=line.variables(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    run = Watching(process)
    readers = [
        threading.Thread(target=lambda: [run.lines.put(one) for one in process.stdout or []], daemon=True),
        threading.Thread(target=lambda: run.errors.extend(process.stderr or []), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        yield run
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join(10)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """Another home, which has nothing from the one in which is watched."""
    return CommandLine(Home(tmp_path_factory.mktemp("dy")))


def fresh(line: CommandLine, folder: Path) -> str:
    done = line("build", str(folder), "--json", "--locked")
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["digest"])


@pytest.mark.slow
def test_every_edit_gives_the_image_that_a_fresh_build_gives(
    dockyard: CommandLine, elsewhere: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path / "wheels", "dy_watched", "1.0", {"dy_watched.py": "VALUE = 1\n"})
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    folder = write_adder(tmp_path / "project")
    (folder / "data.txt").write_text("one")
    program = folder / "tool.sh"
    program.write_text("#!/bin/sh\n")
    required = f'{MANIFEST}\n[build]\nrequirements = ["dy-watched"]\n'
    edits = {
        "predictor.py": lambda: (folder / "predictor.py").write_text(f"{PREDICTOR}\nimport helper  # noqa\n"),
        "helper.py": lambda: (folder / "helper.py").write_text("VALUE = 3\n"),
        "data.txt": lambda: (folder / "data.txt").write_text("two"),
        "tool.sh": lambda: program.chmod(0o755),
        "renamed.sh": lambda: program.rename(folder / "renamed.sh"),
        "goldens/one.json": (folder / "goldens" / "one.json").unlink,
        "dockyard.toml": lambda: (folder / "dockyard.toml").write_text(required.replace("256", "512")),
    }
    with watching(dockyard, folder, "--json", "-t", "watched:1") as run:
        digests = [run.told()["digest"]]
        assert digests[-1] == fresh(elsewhere, folder)
        for name, edit in edits.items():
            # The first edit imports what only the second one brings.
            edit()
            told = run.told_of(name)
            if name == "predictor.py":
                assert "helper" in told["error"]
                continue
            assert told["digest"] == fresh(elsewhere, folder), name
            digests.append(told["digest"])
        assert len(set(digests)) == len(edits)
        assert Layout.open(dockyard.home.images).resolve("watched:1").digest == digests[-1]
        names = [layer["title"] for layer in told["layers"] if not layer["reused"]]
        assert names == ["Python dependencies"]


def test_a_failure_is_told_and_the_next_edit_tried(dockyard: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path / "project")
    with watching(dockyard, folder, "-t", "mended:1") as run:
        first = run.line().split()
        assert first[1].startswith("sha256:")
        assert first[2] == "mended:1"
        (folder / "predictor.py").write_text("def broken(:\n")
        wait_until(lambda: any("waiting for the next change" in line for line in run.errors))
        assert any("predictor.py, line 1" in line for line in run.errors)
        (folder / "dockyard.toml").write_text("no toml")
        wait_until(lambda: any("not valid TOML" in line for line in run.errors))
        write_adder(folder)
        while (line := run.line().split())[1] != first[1]:
            pass
        assert "predictor.py" in " ".join(line)


def test_files_that_change_during_a_build_are_in_the_image_that_is_told(
    dockyard: CommandLine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image of a state that was between two saves gets no name, unless they go on and on."""
    folder = write_adder(tmp_path / "project")
    data, store = folder / "data.txt", Layout.create(dockyard.home.images)
    data.write_text("0")
    saves: list[str] = []

    def attach(*_: object) -> None:
        if saves:
            data.write_text(saves.pop())

    project = load_project(folder).project
    watcher = Watcher(Watched(lambda: files_to_watch(folder, project), lambda: folders_to_watch(folder, project)))
    order = Order(folder, Options("between:1"), (host_architecture(),), attach)
    with Session(order, Bench(store, dockyard.home.cache), as_json=True) as session:
        assert session.build([], watcher)
        first = store.resolve("between:1")
        data.write_text("1")
        assert watcher.wait() == [data]
        saves.append("2")
        assert not session.build(["data.txt"], watcher)
        assert store.resolve("between:1") == first
        session.rest()
        assert watcher.wait(0.5) == [data]
        assert session.build(["data.txt"], watcher)
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["digest"] == store.resolve("between:1").digest == build_in(folder, dockyard.home).image.digest
        saves.extend("x" * number for number in range(1000))
        data.write_text("again and again")
        assert watcher.wait() == [data]
        while not session.build(["data.txt"], watcher):
            assert watcher.wait(0.5) == [data]
        assert saves
        assert store.resolve("between:1").digest != told["digest"]
    watcher.close()


def test_the_archive_is_written_after_each_build(dockyard: CommandLine, tmp_path: Path) -> None:
    folder, out = write_adder(tmp_path / "project"), tmp_path / "model.tar"
    with watching(dockyard, folder, "--json", "-t", "packed:1", "-o", str(out)) as run:
        run.told()
        before = out.stat().st_ino
        (folder / "predictor.py").write_text(f"{PREDICTOR}\nVALUE = 1\n")
        run.told_of("predictor.py")
        assert out.stat().st_ino != before


def test_it_leaves_no_process_and_few_images(dockyard: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path / "project", MANIFEST.replace('"adder"', '"tidy"'))
    with watching(dockyard, folder, "--json", "-t", "tidy:1") as run:
        digests = [run.told()["digest"]]
        wait_until(lambda: children(run.process.pid))
        waiting = children(run.process.pid)
        for number in range(12):
            (folder / "predictor.py").write_text(f"{PREDICTOR}\nVALUE = {number}\n")
            digests.append(run.told_of("predictor.py")["digest"])
        waiting += children(run.process.pid)
    wait_until(lambda: not any(map(lives, waiting)))
    store = Layout.open(dockyard.home.images)
    assert store.resolve("tidy:1").digest == digests[-1]
    assert not store.blobs.has(digests[0])
    assert not store.referrers(digests[0])
    assert store.blobs.has(digests[-5])


def test_sigterm_ends_it_too(dockyard: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path / "project")
    command = [sys.executable, "-m", "dockyard.cli", "build", str(folder), "--watch", "--json", "-t", "ended:1"]
    with subprocess.Popen(command, env=dockyard.variables(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        assert run.stdout is not None
        assert run.stdout.readline()
        os.kill(run.pid, signal.SIGTERM)
        assert run.wait(DEADLINE_S) == 143


def wait_until(condition: Any) -> None:
    give_up = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up, "in vain"
        time.sleep(0.05)
