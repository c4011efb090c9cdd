"""The access log stays in its bounds while a real Envoy writes it, and is read from its end."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from dockyard.yard import accesslog as module
from dockyard.yard.accesslog import AccessLog, Filter
from tests.berth.support import predictor, serving
from tests.yard.envoy import running_envoy


async def reopened() -> None:
    """Nothing to open: the test writes by itself."""


def write(path: Path, *lines: dict[str, Any], end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("\n".join(json.dumps(line) for line in lines) + end)


def numbered(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [{"number": number, **more} for number in range(start, start + count)]


def test_the_last_lines_are_read_across_blocks_and_files(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    write(tmp_path / "access.log.2", *numbered(1000))
    write(tmp_path / "access.log.1", *numbered(1000, 1000, text="ä" * 300))
    write(path, *numbered(1000, 2000, text="x" * 300))
    log = AccessLog(path, reopened)
    for count in (1, 10, 1500, 2500):
        assert [line["number"] for line in log.tail(count)] == list(range(3000 - count, 3000))
    assert len(log.tail(5000)) == 3000


def test_a_line_that_is_being_written_and_lines_that_are_none_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    write(path, *numbered(2))
    path.write_bytes(path.read_bytes() + b'\xff\xfe\nnonsense\n[1]\n\n{"number": 2}\n{"number": 3')
    assert [line["number"] for line in AccessLog(path, reopened).tail(10)] == [0, 1, 2]
    path.write_bytes(b'{"number": 3')
    assert AccessLog(path, reopened).tail(10) == []


def test_a_line_without_an_end_is_left_out_whatever_its_length(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b'{"number": 0}\n' + b"x" * (1 << 20) + b'\n{"number": 1}\n' + b"x" * (1 << 20))
    assert [line["number"] for line in AccessLog(path, reopened).tail(10)] == [0, 1]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Filter(), [0, 1, 2, 3]),
        (Filter(deployment="iris"), [0, 1, 2]),
        (Filter(deployment="iris", revision=2), [1, 2]),
        (Filter(status="5xx"), [2, 3]),
        (Filter(status="503"), [2]),
        (Filter(deployment="nobody"), []),
    ],
)
def test_lines_are_chosen_by_deployment_revision_and_status(tmp_path: Path, wanted: Filter, numbers: list[int]) -> None:
    path = tmp_path / "access.log"
    rows = (("iris", "1", 200), ("iris", "2", 404), ("iris", 2, "503"), ("other", "1", 500))
    write(
        path,
        *(
            {"number": number, "deployment": deployment, "revision": revision, "status": status}
            for number, (deployment, revision, status) in enumerate(rows)
        ),
    )
    assert [line["number"] for line in AccessLog(path, reopened).tail(10, wanted)] == numbers


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert AccessLog(tmp_path / "access.log", reopened).tail(10) == []


def test_only_so_much_of_the_log_is_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "access.log"
    write(path.with_name("access.log.1"), *numbered(100))
    write(path, *numbered(100, 100))
    monkeypatch.setattr(module, "MOST_READ", path.stat().st_size // 2)
    assert [line["number"] for line in AccessLog(path, reopened).tail(1000)] == list(range(151, 200))


async def test_a_file_that_is_too_long_is_renamed_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(path, reopened, max_bytes=100, files=2)
    assert not await log.rotate()
    for number in range(4):
        write(path, *numbered(20, number * 20))
        assert await log.rotate()
        assert not await log.rotate()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["access.log.1", "access.log.2"]
    assert [line["number"] for line in log.tail(100)] == list(range(40, 80))


async def test_a_gateway_that_does_not_answer_is_asked_again_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    answers = [OSError("nobody"), OSError("nobody"), None]

    async def reopen() -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    log = AccessLog(path, reopen, max_bytes=100, files=2)
    write(path, *numbered(20))
    assert not await log.rotate()
    write(path.with_name("access.log.1"), *numbered(20, 20))  # as Envoy goes on doing
    assert not await log.rotate()
    assert await log.rotate()
    assert [line["number"] for line in log.tail(100)] == list(range(40))


async def test_envoy_s_log_is_rotated_without_losing_a_line(short_path: Path) -> None:
    with (
        serving(**predictor("Typed")) as berth,
        running_envoy(short_path, {"iris.1": Path(berth.socket_path)}) as envoy,
    ):

        async def reopen() -> None:
            await asyncio.to_thread(envoy.reopen_logs)

        log = AccessLog(envoy.access_log, reopen, max_bytes=1, files=3)
        for number in range(30):
            path = f"/iris.1/predict?{number}"
            assert (await asyncio.to_thread(envoy.ask, "POST", path, {}))[0] == 422
            if number in {9, 19}:
                await asyncio.to_thread(_until, lambda: bool(envoy.access_log.stat().st_size))
                assert await log.rotate()
        await asyncio.to_thread(_until, lambda: len(log.tail(100, Filter("iris_1", status="4xx"))) == 30)
        lines = log.tail(100, Filter("iris_1", status="422"))
    assert [line["path"] for line in lines] == [f"/iris.1/predict?{number}" for number in range(30)]


def _until(true: Any) -> None:
    """Envoy writes its log a moment after the answer."""
    give_up = time.monotonic() + 15
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.05)
