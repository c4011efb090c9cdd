"""The unit that `dockyard up --print-unit` prints: systemd reads back what was meant, from whatever folder."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dockyard.cli import commands
from dockyard.cli.up import command as up


def unit_of(*options: str, home: Path, **variables: str) -> dict[str, list[str]]:
    """The unit's keys with their values."""
    found = CliRunner(env={"DOCKYARD_HOME": str(home), **variables}).invoke(commands, ["up", *options, "--print-unit"])
    assert found.exit_code == 0, found.output
    lines = [line.partition("=") for line in found.stdout.splitlines() if "=" in line and not line.startswith("#")]
    return {key: [value for name, _, value in lines if name == key] for key, _, _ in lines}


def words_of(unit: dict[str, list[str]]) -> list[str]:
    """The command as systemd splits and expands it; its quoting is, for these words, a shell's."""
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(unit["ExecStart"][0])]


def test_paths_are_whole_for_a_unit_runs_in_no_folder_of_yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    options = ("--policy", "policy.toml", "--tls-cert", "cert.pem", "--tls-key=key.pem")
    words = words_of(unit_of(*options, home=tmp_path / "home"))
    assert Path(words[0]).is_absolute()
    assert words[1] == "up"
    for option, name in (("--policy", "policy.toml"), ("--tls-cert", "cert.pem"), ("--tls-key", "key.pem")):
        assert words[words.index(option) + 1] == str(tmp_path / name)


@pytest.mark.parametrize("label", ["load=50%", "cost=5$", "place=hall 3", 'said="so"', "path=a\\b"])
def test_words_with_signs_that_systemd_reads_otherwise_are_read_back_as_they_are(tmp_path: Path, label: str) -> None:
    words = words_of(unit_of("--label", label, home=tmp_path))
    assert words[words.index("--label") + 1] == label


def test_no_option_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = {"--port": "8123", "--keep-revisions": "7", "--engine": "runc"}
    given = [option for option in up.params if option.name not in {"detach", "print_unit"}]
    assert len(given) == 11
    options: list[str] = []
    for option in given:
        (name,) = (each for each in option.opts if each.startswith("--"))
        paths = isinstance(option.type, click.Path)
        value = str(tmp_path / "file") if paths else said.get(name, "k=v" if name == "--label" else "said")
        options += [name] if isinstance(option, click.Option) and option.is_flag else [name, value]
    assert sorted(words_of(unit_of(*options, home=tmp_path))[2:]) == sorted(options)


def test_what_says_where_engines_and_home_are_is_kept(tmp_path: Path) -> None:
    told = {"DOCKYARD_ENGINE": "docker", "DOCKER_HOST": "unix:///run/own/docker.sock"}
    unit = unit_of("--memory", "12GiB", home=tmp_path / "a%b", **told)
    assert unit["Environment"] == [
        f"DOCKYARD_HOME={tmp_path}/a%%b",
        "DOCKER_HOST=unix:///run/own/docker.sock",
    ]
    words = words_of(unit)
    assert words[words.index("--engine") + 1] == "docker"
    assert words[words.index("--memory") + 1] == "12GiB"
    assert not {"--print-unit", "--detach", "-d"} & set(words)
