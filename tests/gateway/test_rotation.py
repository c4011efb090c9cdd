"""The access log stays in its bounds while a real Envoy writes it, and loses no line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from dockyard.errors import GatewayError
from dockyard.gateway.admin import Admin
from dockyard.gateway.bootstrap import ADMIN_SOCKET
from dockyard.gateway.listener import ACCESS_LOG
from dockyard.gateway.rotation import Rotation
from tests.gateway.support import ask, running, settings, until


async def reopened() -> None:
    """Nothing to open: the test writes by itself."""


def write(path: Path, *numbers: int) -> None:
    with path.open("a") as file:
        file.writelines(f"line {number:3}\n" for number in numbers)


def read(folder: Path) -> list[int]:
    """The numbers in all files, the oldest file first."""
    files = sorted(folder.glob(f"{ACCESS_LOG}*"), reverse=True)
    return [int(line.split()[1]) for file in files for line in file.read_text().splitlines()]


async def test_a_file_that_is_too_long_is_set_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / ACCESS_LOG
    rotation = Rotation(path, reopened, max_bytes=100, files=2)
    assert not await rotation.rotate()
    for number in range(4):
        write(path, *range(number * 20, number * 20 + 20))
        assert await rotation.rotate()
        assert not await rotation.rotate()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["access.log.1", "access.log.2"]
    assert read(tmp_path) == list(range(40, 80))


@pytest.mark.parametrize("error", [OSError("nobody"), GatewayError("nobody")])
async def test_a_gateway_that_does_not_answer_is_asked_again_and_nothing_is_lost(
    tmp_path: Path, error: Exception
) -> None:
    path = tmp_path / ACCESS_LOG
    answers = [error, error, None]

    async def reopen() -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    rotation = Rotation(path, reopen, max_bytes=100, files=2)
    write(path, *range(20))
    assert not await rotation.rotate()
    write(path.with_name("access.log.1"), *range(20, 40))  # as Envoy goes on doing
    assert not await rotation.rotate()
    assert await rotation.rotate()
    assert read(tmp_path) == list(range(40))


async def test_the_next_owner_finishes_a_rotation_that_was_broken_off(tmp_path: Path) -> None:
    path, asked = tmp_path / ACCESS_LOG, []

    async def reopen() -> None:
        asked.append("reopen")

    write(path.with_name("access.log.1"), *range(5))
    rotation = Rotation(path, reopen, max_bytes=100, files=2)
    assert await rotation.rotate()
    assert asked == ["reopen"]
    assert not await Rotation(tmp_path / "other.log", reopen, max_bytes=100, files=2).rotate()


async def test_envoy_s_log_is_rotated_without_losing_a_line(short_path: Path) -> None:
    chosen = settings(short_path)
    path = chosen.folder / ACCESS_LOG
    async with running(chosen) as gateway:
        rotation = Rotation(path, Admin(chosen.folder / ADMIN_SOCKET).reopen_logs, max_bytes=1, files=3)
        for number in range(30):
            await ask(gateway.address, "/nothing", x_request_id=str(number))
            if number in {9, 19}:
                await until(lambda: path.exists() and path.stat().st_size > 1, "the log is written")
                assert await rotation.rotate()
        await until(lambda: len(requests(chosen.folder)) == 30, "every line is written")
    assert requests(chosen.folder) == [str(number) for number in range(30)]
    assert path.with_name("access.log.2").exists()


async def test_the_gateway_keeps_as_many_files_as_it_is_told(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dockyard.gateway.envoy._LOG_CHECK_S", 0.05)
    chosen = settings(short_path, access_log_bytes=1, access_log_files=2)
    async with running(chosen) as gateway:
        for number in range(4):
            await ask(gateway.address, "/nothing", x_request_id=str(number))
            await until(lambda: str(number) in requests(chosen.folder), "the log is written")  # noqa: B023
            await until(lambda: not _size(chosen.folder / ACCESS_LOG), "it was set aside")
        await asyncio.sleep(0.2)
    assert requests(chosen.folder) == ["2", "3"]


def requests(folder: Path) -> list[str]:
    files = sorted(folder.glob(f"{ACCESS_LOG}*"), reverse=True)
    return [json.loads(line)["request_id"] for file in files for line in file.read_text().splitlines()]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
