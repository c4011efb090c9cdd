"""The verbs that work on containers, as a user types them: run, ps, predict, logs, stop, and how they fail."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dockyard.build.builder import Built
from dockyard.oci.image import Platform
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.support.projects import PREDICTOR, CommandLine, build_in, write_adder
from tests.support.tiny_image import CONFIG, ELSEWHERE, base_layers, make_image


@pytest.fixture(params=["docker", "runc"])
def line(request: pytest.FixtureRequest, home: Home, dockerd: str, adder: Built) -> Iterator[CommandLine]:
    """The command line with one engine to be found: no Docker Engine answers where runc is meant."""
    assert adder.image
    address = dockerd if request.param == "docker" else ""
    hidden = {"DOCKER_HOST": address} if address else {"DOCKER_HOST": "", "XDG_RUNTIME_DIR": "/nonexistent"}
    command = CommandLine(home, {**hidden, "TEST_ENGINE": request.param})
    yield command
    command("stop", "--all", "--grace", "1", "--engine", request.param)


def engine_of(line: CommandLine) -> tuple[str, str]:
    """The option that names the engine (another may answer on the machine that runs the tests)."""
    return ("--engine", line.environment["TEST_ENGINE"])


def build_failing(home: Home, tmp_path: Path, name: str, body: str) -> None:
    build_in(write_adder(tmp_path / name, predictor=body), home, name)


def test_a_container_is_run_asked_listed_shown_and_stopped(line: CommandLine) -> None:
    engine = engine_of(line)
    started = line("run", "adder:1", "-d", "--name", "life", *engine)
    assert started.returncode == 0, started.stderr
    assert re.search(r"life is ready after \d+\.\d+ s", started.stderr)
    answer = line("predict", "life", "-i", "left=1.5", "-i", "right=2", *engine)
    assert json.loads(answer.stdout) == 4.0
    listed = json.loads(line("ps", "--json", *engine).stdout)
    assert [(one["name"], one["state"], one["image"]) for one in listed] == [("life", "running", "adder:1")]
    log = [json.loads(entry) for entry in line("logs", "life", *engine).stdout.splitlines()]
    assert [entry["status"] for entry in log if entry.get("route") == "predict"] == [200]
    stopped = line("stop", "life", *engine)
    assert "life stopped (exit code 0)" in stopped.stdout
    assert json.loads(line("ps", "--json", *engine).stdout) == []


def test_what_runs_knows_the_digest_of_its_image(line: CommandLine, adder: Built) -> None:
    engine = engine_of(line)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = str(other.getsockname()[1])
    assert line("run", "adder:1", "-d", "-p", port, "--name", "known", *engine).returncode == 0
    url = f"http://127.0.0.1:{port}"
    request = urllib.request.Request(f"{url}/predict", b'{"left": 1}', {"Prefer": "model-info"}, method="POST")
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.headers["Image-Digest"] == str(adder.image.digest)
        assert response.headers["Model-Name"] == "adder"
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        assert f'image_digest="{adder.image.digest}"' in response.read().decode()


def test_an_image_is_asked_without_being_started_first(line: CommandLine) -> None:
    answer = line("predict", "adder:1", *engine_of(line), stdin='{"left": 2}')
    assert json.loads(answer.stdout) == 3.5
    assert json.loads(line("ps", "--json", *engine_of(line)).stdout) == []


def test_a_published_port_answers_and_a_taken_one_is_told(line: CommandLine) -> None:
    engine = engine_of(line)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = str(other.getsockname()[1])
    assert line("run", "adder:1", "-d", "-p", port, "--name", "open", *engine).returncode == 0
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", b'{"left": 1}', method="POST")
    with urllib.request.urlopen(request, timeout=10) as response:
        assert json.load(response) == 2.5
    answer = line("predict", f"http://127.0.0.1:{port}", "-i", "left=3")
    assert json.loads(answer.stdout) == 4.5
    second = line("run", "adder:1", "-d", "-p", port, *engine)
    assert second.returncode == 1
    assert port in second.stderr
    assert len(json.loads(line("ps", "--json", *engine).stdout)) == 1


def test_ctrl_c_ends_a_foreground_run_and_leaves_nothing(line: CommandLine) -> None:
    engine = engine_of(line)
    process = subprocess.Popen(
        line.command("run", "adder:1", "--name", "front", *engine),
        env=line.variables(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    give_up = time.monotonic() + 60
    assert process.stderr is not None
    while "ready" not in process.stderr.readline():
        assert time.monotonic() < give_up
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(line("ps", "--json", *engine).stdout) == []
    assert not list(line.home.containers.glob("front-*"))


def test_a_predictor_that_fails_to_load_shows_the_end_of_its_traceback(line: CommandLine, tmp_path: Path) -> None:
    body = PREDICTOR.replace("self.offset = 0.5", "raise RuntimeError('the weights are of another model')")
    build_failing(line.home, tmp_path, "adder-broken:1", body)
    started = time.monotonic()
    done = line("run", "adder-broken:1", "-d", *engine_of(line))
    assert time.monotonic() - started < 20
    assert done.returncode == 1
    assert "RuntimeError: the weights are of another model" in done.stderr
    assert "ended with exit code" in done.stderr
    assert json.loads(line("ps", "--json", *engine_of(line)).stdout) == []


def test_a_predictor_that_raises_answers_500_with_an_id_and_lives_on(line: CommandLine, tmp_path: Path) -> None:
    engine = engine_of(line)
    body = PREDICTOR.replace("return left + right", "return left / (right - 7)")
    build_failing(line.home, tmp_path, "adder-raising:1", body)
    assert line("run", "adder-raising:1", "-d", "--name", "raising", *engine).returncode == 0
    failed = line("predict", "raising", "-i", "left=1", "-i", "right=7", *engine)
    assert failed.returncode == 1
    assert "the model answered 500" in failed.stderr
    shown = re.search(r"error id ([0-9a-f]{8,})", failed.stderr)
    assert shown, failed.stderr
    log = line("logs", "raising", *engine).stdout
    assert shown[1] in log
    assert "ZeroDivisionError" in log
    assert line("predict", "raising", "-i", "left=1", "-i", "right=6", *engine).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "ader"), ["no image 'ader'", "Did you mean"]),
        (("predict", "nothing-here", "-i", "a=1"), ["no container is named 'nothing-here'", "no image 'nothing-here'"]),
        (("predict", "http://127.0.0.1:9", "-i", "a=1"), ["nobody answers at http://127.0.0.1:9"]),
        (("logs", "nobody"), ["no container 'nobody'"]),
        (("stop", "nobody"), ["no container 'nobody'"]),
        (("run", "adder:1", "--memory", "lots"), ["'lots' is not an amount of memory"]),
    ],
)
def test_names_that_mean_nothing_are_told(home: Home, adder: Built, words: tuple[str, ...], said: list[str]) -> None:
    assert adder.image
    done = CommandLine(home, {"DOCKER_HOST": ""})(*words)
    assert done.returncode == 1
    assert [part for part in said if part not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("run",), ("predict",), ("test",), ("batch", "-")])
def test_an_image_for_another_architecture_is_not_run(home: Home, tiny_program: Path, words: tuple[str, ...]) -> None:
    layout = Layout.create(home.images)
    make_image(layout, base_layers(layout, tiny_program), "elsewhere:1", config=replace(CONFIG, platform=ELSEWHERE))
    done = CommandLine(home, {"DOCKER_HOST": ""})(words[0], "elsewhere:1", *words[1:], stdin="{}")
    assert done.returncode == 1
    assert f"elsewhere:1 has no image for {Platform.host()}" in done.stderr
    assert f"Platforms that it has: {ELSEWHERE}" in done.stderr


def test_inputs_that_do_not_fit_are_told_by_their_field(home: Home, adder: Built) -> None:
    assert adder.image
    line = CommandLine(home)
    runc = ("--engine", "runc")
    for words, said in (
        (("-i", "left=-1"), "left"),
        (("-i", "right=1"), "left"),
        (("-i", "left=1", "-i", "middle=2"), "middle"),
        (("-i", "left"), "'left' has no value"),
        (("-i", "left=@/no/such/file"), "/no/such/file"),
    ):
        done = line("predict", "adder:1", *runc, *words)
        assert done.returncode == 1
        assert said in done.stderr, done.stderr


def test_an_engine_that_is_named_and_not_there_is_told_with_the_mend(home: Home, adder: Built) -> None:
    assert adder.image
    line = CommandLine(home, {"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
    done = line("run", "adder:1")
    assert done.returncode == 1
    assert "DOCKER_HOST" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [("run", "adder:1"), ("predict", "adder:1", "-i", "left=1"), ("test", "adder:1"), ("ps",)]
)
def test_no_engine_at_all_is_told_with_what_was_tried_and_the_mend(
    home: Home, adder: Built, words: tuple[str, ...]
) -> None:
    """On a machine where no socket is there and no program, as far as the choice of an engine can see."""
    assert adder.image
    bare = (
        "from dockyard.engines import detect\n"
        "detect._PROGRAM_FOLDERS = ''\n"
        "detect._usual_addresses = lambda environment: ['unix:///nonexistent/docker.sock']\n"
        "from dockyard.cli import main\n"
        "main()\n"
    )
    environment = {**CommandLine(home, {"DOCKER_HOST": "", "PATH": ""}).variables()}
    done = subprocess.run(
        [sys.executable, "-c", bare, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "engine can be used on this machine" in done.stderr
    assert "/nonexistent/docker.sock is not there" in done.stderr or "not on the PATH" in done.stderr
    assert "Start Docker or Podman, or install runc" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_while_a_model_loads_leaves_no_container(line: CommandLine, tmp_path: Path) -> None:
    """`dockyard run` is told to end before the container is ready: both are gone."""
    engine = engine_of(line)
    body = PREDICTOR.replace("self.offset = 0.5", "import time; time.sleep(600)")
    build_failing(line.home, tmp_path, "adder-slow:1", body)
    process = subprocess.Popen(
        line.command("run", "adder-slow:1", "--name", "slow", *engine),
        env=line.variables(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    give_up = time.monotonic() + 60
    while not json.loads(line("ps", "--json", *engine).stdout):
        assert time.monotonic() < give_up
        assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert json.loads(line("ps", "--json", *engine).stdout) == []
    assert not list(line.home.containers.glob("slow-*"))
