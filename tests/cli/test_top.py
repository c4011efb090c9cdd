"""`dockyard top` as people watch it: on a terminal and as lines, look after look, and what it shows of the past."""

from __future__ import annotations

import functools
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dockyard.cli import commands
from dockyard.cli.top_history import seconds
from dockyard.errors import UnknownInYardError
from dockyard.spec.home import Home
from tests.support.memory_yard import NOW, MemoryYard, on_unix, running, status
from tests.support.projects import CommandLine

DEADLINE = 30.0


@pytest.fixture
def yard() -> MemoryYard:
    return MemoryYard(names={"iris": status(), "quiet": status("quiet")})


@pytest.fixture
def home(yard: MemoryYard, short_path: Path) -> Iterator[Home]:
    home = Home(short_path)
    with running(yard, on_unix(home.yard_socket)):
        yield home


def variables(home: Home) -> dict[str, str]:
    return {"DOCKYARD_HOME": str(home.root), "COLUMNS": "160", "DOCKYARD_YARD": "", "DOCKYARD_TOKEN": ""}


def top(home: Home, *words: str) -> str:
    return CliRunner(env=variables(home)).invoke(commands, ["top", *words], catch_exceptions=False).stdout


@contextmanager
def started(home: Home, output: int, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """`dockyard top` that goes on, until the body ends or it was interrupted."""
    line = CommandLine(home, {**variables(home), "TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"})
    process = subprocess.Popen(
        line.command("top", *words), env=line.variables(), stdin=subprocess.DEVNULL, stdout=output
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE)


def ended_by_ctrl_c(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(DEADLINE)


def seen(terminal: int, what: str) -> str:
    """What is written to a terminal until `what` is among it."""
    found, until = "", time.monotonic() + DEADLINE
    while what not in found:
        assert select.select([terminal], [], [], until - time.monotonic())[0], f"{what!r} is not in {found!r}"
        found += os.read(terminal, 1 << 16).decode("utf-8", "replace")
    return found


def test_the_table_on_a_terminal_is_drawn_anew_with_what_is_new(home: Home, yard: MemoryYard) -> None:
    terminal, other_end = pty.openpty()
    try:
        with started(home, other_end, "--every", "0.2") as process:
            first = seen(terminal, "12.5")
            assert "\x1b[?1049h" in first, "it has a screen of its own"
            yard.rate = 77.25
            assert "iris-1" in seen(terminal, "77.2")
            yard.rate = 99.0
            seen(terminal, "99.0")
            assert ended_by_ctrl_c(process) == 130
            assert "\x1b[?1049l" in seen(terminal, "\x1b[?1049l"), "and gives the screen back"
    finally:
        for each in (terminal, other_end):
            with suppress(OSError):
                os.close(each)


def test_json_goes_on_with_an_object_a_line(home: Home, yard: MemoryYard) -> None:
    with started(home, subprocess.PIPE, "iris", "--every", "0.2", "--json") as process:
        assert process.stdout is not None
        with process.stdout as lines:
            first = json.loads(lines.readline())
            yard.rate = 77.25
            rates = [first["deployments"][0]["replicas"][0]["requests_per_second"]]
            while rates[-1] != 77.25:
                rates.append(json.loads(lines.readline())["deployments"][0]["replicas"][0]["requests_per_second"])
            assert ended_by_ctrl_c(process) == 130
    assert set(rates) == {12.5, 77.25}


def test_the_load_since_some_time_is_a_row_a_step(home: Home, yard: MemoryYard) -> None:
    shown = top(home, "iris", "--since", "6h", "--step", "10m").splitlines()
    assert yard.asked_of_history == (6 * 3600, 600)
    assert shown[0].strip() == "iris"
    first, second = (line for line in shown if line.startswith("20"))
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW))
    assert " ".join(first.split()) == f"{began} 12.5 0.2 1.5 ms 4.2 ms 0.5 1.5 0.25 1.0 MB"
    assert second.split()[2:] == ["-"] * 8
    assert "600 s each" in shown[-1]


def test_what_nobody_measured_is_said_and_all_deployments_are_told(home: Home, yard: MemoryYard) -> None:
    assert "quiet: nothing is known" in top(home, "quiet", "--since", "15min")
    assert yard.asked_of_history == (900, 0)
    (told,) = json.loads(top(home, "--since", "1d", "--json"))
    assert (told["deployment"], told["steps"][1]["requests_per_second"]) == ("iris", 12.5)
    with pytest.raises(UnknownInYardError):
        top(home, "rose", "--since", "1h")


@pytest.mark.parametrize("words", [("--since", "25h"), ("--since", "9s"), ("--since", "6"), ("--step", "5m")])
def test_a_time_that_is_not_kept_is_wrong_usage(home: Home, words: tuple[str, ...]) -> None:
    assert CliRunner(env=variables(home)).invoke(commands, ["top", *words]).exit_code == 2


def test_times_are_written_as_people_do() -> None:
    read = functools.partial(seconds(2), click.Context(click.Command("top")), click.Option(["--step"]))
    assert list(map(read, ("90s", "15m", "15min", "6h", "1d"))) == [90, 900, 900, 21_600, 86_400]
    for text in ("", "0s", "1h30m", "-1h", "٣h", "2d"):
        with pytest.raises(click.BadParameter):
            read(text)
