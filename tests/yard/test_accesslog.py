"""The access log is read from its end, over all its files."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from dockyard.yard import accesslog as module
from dockyard.yard.accesslog import Filter, follow, tail


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
    for count in (1, 10, 1500, 2500):
        assert [line["number"] for line in tail(path, count)] == list(range(3000 - count, 3000))
    assert len(tail(path, 5000)) == 3000


def test_a_line_that_is_being_written_and_lines_that_are_none_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    write(path, *numbered(2))
    path.write_bytes(path.read_bytes() + b'\xff\xfe\nnonsense\n[1]\n\n{"number": 2}\n{"number": 3')
    assert [line["number"] for line in tail(path, 10)] == [0, 1, 2]
    path.write_bytes(b'{"number": 3')
    assert tail(path, 10) == []


def test_a_line_without_an_end_is_left_out_whatever_its_length(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b'{"number": 0}\n' + b"x" * (1 << 20) + b'\n{"number": 1}\n' + b"x" * (1 << 20))
    assert [line["number"] for line in tail(path, 10)] == [0, 1]


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
    assert [line["number"] for line in tail(path, 10, wanted)] == numbers


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert tail(tmp_path / "access.log", 10) == []


def test_only_so_much_of_the_log_is_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "access.log"
    write(path.with_name("access.log.1"), *numbered(100))
    write(path, *numbered(100, 100))
    monkeypatch.setattr(module, "MOST_READ", path.stat().st_size // 2)
    assert [line["number"] for line in tail(path, 1000)] == list(range(151, 200))


def test_a_rotation_meanwhile_neither_hides_lines_nor_shows_them_twice(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    write(path.with_name("access.log.1"), *numbered(100))
    write(path, *numbered(100, 100))

    class Rotating(Filter):
        def takes(self, line: dict[str, Any]) -> bool:
            if line["number"] == 199:
                path.with_name("access.log.1").replace(path.with_name("access.log.2"))
                path.replace(path.with_name("access.log.1"))
            return True

    assert [line["number"] for line in tail(path, 1000, Rotating())] == list(range(200))


def test_the_log_is_read_while_its_youngest_file_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    write(path.with_name("access.log.1"), *numbered(3))
    assert [line["number"] for line in tail(path, 10)] == [0, 1, 2]


async def test_a_follower_gets_each_line_once_over_rotations(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    write(path, *numbered(5))
    with path.open("a") as file:
        file.write('{"number"')  # being written
    async with asyncio.timeout(20), aclosing(follow(path, 2, Filter())) as lines:
        found = [(await anext(lines))["number"] for _ in range(2)]
        with path.open("a") as file:
            file.write(": 5}\n")
        write(path, *numbered(1, 6), end="\n" + json.dumps({"number": 7}))
        found += [(await anext(lines))["number"] for _ in range(2)]
        with path.open("a") as file:
            file.write("\n")
        path.rename(tmp_path / "access.log.1")
        found.append((await anext(lines))["number"])
        write(path, *numbered(2, 8))
        found += [(await anext(lines))["number"] for _ in range(2)]
        path.write_bytes(b"")
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0.5)  # so that it is seen to be empty; without that a longer line would hide it
        write(path, *numbered(1, 10))
        found.append((await waiting)["number"])
    assert found == list(range(3, 11))


async def test_a_follower_waits_for_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with asyncio.timeout(20), aclosing(follow(path, 5, Filter(status="5xx"))) as lines:
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        write(path, *numbered(1, status=200), *numbered(1, 1, status=503))
        assert (await waiting)["number"] == 1
