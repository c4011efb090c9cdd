"""`dockyard dev`, as a user sees it: a real server, real edits, a real Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dockyard.spec.home import Home
from tests.support.projects import MANIFEST, PREDICTOR, CommandLine, write_adder

DEADLINE_S = 60.0


@dataclass
class Developing:
    """A running `dockyard dev`; `lines` is what it said so far."""

    process: subprocess.Popen[str]
    port: int
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, words: str, times: int = 1) -> None:
        wait_until(lambda: self.text.count(words) >= times, lambda: f"no {words!r} in:\n{self.text}")

    def wait_for_pid_of_server(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert len(children) == 1
        return int(children[0])

    def ask(self, **inputs: Any) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/predict", json.dumps(inputs).encode())
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


def wait_until(condition: Callable[[], Any], why: Callable[[], str] = lambda: "in vain") -> None:
    give_up = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up, why()
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def developing(line: CommandLine, folder: Path, *words: str, log_format: str = "text") -> Iterator[Developing]:
    """`dockyard dev` in a folder; it ends with code 0 on Ctrl-C, and its server with it."""
    port = free_port()
    process = subprocess.Popen(
        line.command("dev", "-p", str(port), "--log-format", log_format, *words),
        cwd=folder, env=line.variables(), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    run = Developing(process, port)
    assert process.stderr is not None
    reading = threading.Thread(target=lambda: run.lines.extend(map(str.rstrip, process.stderr or [])), daemon=True)
    reading.start()
    try:
        yield run
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0, run.text
        reading.join(DEADLINE_S)
        assert run.lines[-1] == "stopped"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reading.join(DEADLINE_S)
        process.stderr.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.fixture
def line(home: Home) -> CommandLine:
    """The command line without an active environment, and with settings that a project must not inherit."""
    return CommandLine(home, {"VIRTUAL_ENV": "", "BERTH_MODEL_NAME": "of the shell", "PORT": "1"})


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_change_is_served_and_a_broken_file_is_explained_until_it_is_mended(
    line: CommandLine, tmp_path: Path
) -> None:
    folder = write_adder(tmp_path)
    code = folder / "predictor.py"
    with developing(line, folder) as run:
        run.wait_for("s: http://")
        assert re.search(
            rf"ready after [\d.]+ s: http://127.0.0.1:{run.port} .*http://127.0.0.1:{run.port}/docs", run.text
        )
        assert "which has all requirements" in run.text
        assert run.ask(left=1, right=2) == 3.5
        run.wait_for("200  POST   predict")
        rewrite(code, "self.offset = 0.5", "self.offset = 10")
        run.wait_for("predictor.py changed")
        run.wait_for("s: http://", 2)
        assert run.ask(left=1, right=2) == 13
        rewrite(code, "self.offset = 10", "self.offset = {}['nothing']")
        run.wait_for("the server ended with exit code 1; waiting for a change")
        shown = run.text[run.text.rindex("changed") :]
        assert "  predictor.py:10 in load\n      self.offset = {}['nothing']\nKeyError: 'nothing'\n" in shown
        assert "frames outside the project are left out" in shown
        assert "importlib" not in shown
        rewrite(code, "def predict(self, left", "def predict(self left")
        run.wait_for("SyntaxError")
        assert re.search(r"  predictor.py:12\n      def predict\(self left: .*\n +\^+\nSyntaxError: ", run.text)
        run.wait_for("waiting for a change", 2)
        code.write_text(PREDICTOR)
        run.wait_for("s: http://", 3)
        assert run.ask(left=1, right=2) == 3.5


def test_a_project_file_that_is_wrong_is_told_and_a_new_one_is_obeyed(line: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path)
    with developing(line, folder) as run:
        run.wait_for("s: http://")
        (folder / "dockyard.toml").write_text(MANIFEST + "\n[serve]\nprt = 1\n")
        run.wait_for("Did you mean `port`?")
        run.wait_for("waiting for a change")
        (folder / "dockyard.toml").write_text(
            MANIFEST.replace('"adder"', '"renamed"') + "\n[environment]\nMINE = '7'\n"
        )
        (folder / "more").mkdir()
        (folder / "more" / "__init__.py").write_text("import os\n\nOFFSET = float(os.environ['MINE'])\n")
        (folder / "predictor.py").write_text(
            PREDICTOR.replace("self.offset = 0.5", "self.offset = more.OFFSET").replace(
                "import Meta", "import Meta\n\nimport more"
            )
        )
        run.wait_for("s: http://", 2)
        assert run.ask(left=1, right=2) == 10
        with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/v2/models/renamed", timeout=10) as answer:
            assert json.load(answer)["name"] == "renamed"
        rewrite(folder / "more" / "__init__.py", "OFFSET = ", "OFFSET = 1 + ")
        run.wait_for("more/__init__.py changed")
        run.wait_for("s: http://", 3)
        assert run.ask(left=1, right=2) == 11


def test_files_that_no_image_would_have_do_not_restart_it(line: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path, MANIFEST + '\n[build]\nexclude = ["notes"]\n')
    with developing(line, folder) as run:
        run.wait_for("s: http://")
        server = run.wait_for_pid_of_server()
        for name in (".hidden", "notes", "x.pyc"):
            (folder / name).write_text("new")
        (folder / "data.txt").write_text("new")
        run.wait_for("data.txt changed")
        assert "notes" not in run.text
        assert ".hidden" not in run.text
        run.wait_for("s: http://", 2)
        assert run.wait_for_pid_of_server() != server


def test_a_predict_that_raises_shows_the_users_line_and_the_server_lives_on(line: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path, predictor=PREDICTOR.replace("left + right + self.offset", "left / (right - 7)"))
    with developing(line, folder, "--traceback") as run:
        run.wait_for("s: http://")
        with pytest.raises(urllib.error.HTTPError, match="500"):
            run.ask(left=1, right=7)
        run.wait_for("ZeroDivisionError")
        assert (
            "  predictor.py:14 in predict\n      return left / (right - 7)\nZeroDivisionError: float division by zero"
            in run.text
        )
        assert "berth/executor.py" in run.text, "--traceback shows all frames"
        assert "500  POST   predict" in run.text
        assert run.ask(left=1, right=8) == 1


def test_a_server_that_is_killed_is_told(line: CommandLine, tmp_path: Path) -> None:
    with developing(line, write_adder(tmp_path)) as run:
        run.wait_for("s: http://")
        os.kill(run.wait_for_pid_of_server(), signal.SIGKILL)
        run.wait_for("the server was killed by SIGKILL; waiting for a change")


def test_the_log_stays_json_where_nobody_looks(line: CommandLine, tmp_path: Path) -> None:
    with developing(line, write_adder(tmp_path), log_format="auto") as run:
        run.wait_for("s: http://")
        run.ask(left=1)
        run.wait_for('"route":"predict"')
        event = json.loads(next(entry for entry in run.lines if '"route":"predict"' in entry))
        assert event["status"] == 200


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(line: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path, predictor="raise RuntimeError('loaded')\n\n\nclass Adder: ...\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = line("dev", "-p", port, cwd=folder)
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use by another program" in done.stderr
    assert "loaded" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--python", "/no/such"), "--python /no/such is no Python"), (("--python", "/etc/hostname"), "cannot be run")],
)
def test_a_python_that_is_none_is_told(line: CommandLine, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with developing(line, write_adder(tmp_path), *words) as run:
        run.wait_for("waiting for a change")
        assert said in run.text
        assert "Traceback" not in run.text


def test_a_folder_without_a_project_is_told(line: CommandLine, tmp_path: Path) -> None:
    done = line("dev", cwd=tmp_path)
    assert done.returncode == 1
    assert "dockyard init" in done.stderr


USES = """\
import sys

import tabulate


class Adder:
    def predict(self, left: float) -> list[str]:
        return [tabulate.__version__, sys.prefix]
"""


@pytest.mark.slow
def test_a_python_is_made_for_a_project_whose_requirements_are_missing(line: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path, MANIFEST + '\n[build]\nrequirements = ["tabulate==0.9.0"]\n', USES)
    with developing(line, folder) as run:
        run.wait_for("s: http://")
        version, prefix = run.ask(left=1)
        assert version == "0.9.0"
        assert Path(prefix).is_relative_to(line.home.cache)
        assert "making a Python environment for this project from its requirements, once" in run.text
        assert re.search(r"the environment was made in [\d.]+ s", run.text)
    with developing(line, folder) as again:
        again.wait_for("s: http://")
        assert "making" not in again.text


@pytest.mark.slow
def test_the_projects_own_environment_serves_and_is_left_as_it_is(line: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(
        tmp_path, predictor=USES.replace("import tabulate\n\n\n", "\n").replace("tabulate.__version__, ", "")
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")], check=True)
    before = sorted((folder / ".venv").rglob("*.dist-info"))
    with developing(line, folder) as run:
        run.wait_for("s: http://")
        assert run.ask(left=1) == [str(folder / ".venv")]
        assert "(the project's .venv)" in run.text
        assert re.search(r"lacks .*httptools.*, which berth needs: kept beside it", run.text)
    assert sorted((folder / ".venv").rglob("*.dist-info")) == before
    active = CommandLine(line.home, {**line.environment, "VIRTUAL_ENV": str(folder / ".venv")})
    (tmp_path / "other").mkdir()
    other = write_adder(tmp_path / "other")
    with developing(active, other) as run:
        run.wait_for("s: http://")
        assert "(the active environment)" in run.text
        assert "kept beside it" not in run.text, "it is made once"
