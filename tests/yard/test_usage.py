"""What processes use is read from the kernel: of a real process, of its children, of one that has ended."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dockyard.yard import usage as module
from dockyard.yard.points import Usage
from dockyard.yard.usage import NO_LIMIT, memory_limit, usage, usages

BUSY = """
import sys, time
held = bytearray(b"x") * (64 << 20)
end = time.process_time() + 0.3
while time.process_time() < end: pass
print("ready", flush=True)
sys.stdin.read()
"""
PARENT = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", {BUSY!r}])
print("ended", flush=True)
time.sleep(60)
"""


@contextmanager
def program(code: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def own_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a container has no control group of its own."""
    monkeypatch.setattr(module, "groups_of", lambda _: {})


@pytest.mark.usefixtures("own_tree")
def test_a_process_s_own_time_and_memory() -> None:
    with program(BUSY) as process:
        found = usage(process.pid)
    assert found is not None
    assert 0.25 <= found.cpu_seconds < 20
    assert 64 << 20 <= found.resident_bytes < 256 << 20


@pytest.mark.usefixtures("own_tree")
def test_children_count_while_they_run_and_after_they_ended() -> None:
    with program(PARENT) as process:
        running = usage(process.pid)
        assert running is not None
        assert running.cpu_seconds >= 0.25
        assert running.resident_bytes > 64 << 20
        # The standard input that both read ends for the child as soon as it is closed.
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.stdout.readline() == b"ended\n"
        after = _until_alone(process.pid)
    assert after.cpu_seconds >= 0.25


def _until_alone(pid: int) -> Usage:
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        found = usage(pid)
        if found is not None and found.resident_bytes < 64 << 20:
            return found
        time.sleep(0.02)
    raise AssertionError("the child's memory is still counted")


def test_a_process_that_has_ended_is_left_out() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with program(BUSY) as running:
        assert set(usages([process.pid, running.pid])) == {running.pid}


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "groups_of", lambda _: dict.fromkeys(("", "cpuacct", "memory"), tmp_path))
    return tmp_path


def test_a_control_group_of_version_2(groups: Path) -> None:
    (groups / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (groups / "memory.current").write_text("3000\n")
    (groups / "memory.stat").write_text("anon 1500\ninactive_file 1000\n")
    assert usage(1) == Usage(1.5, 2000)


def test_control_groups_of_version_1(groups: Path) -> None:
    (groups / "cpuacct.usage").write_text("2500000000\n")
    (groups / "memory.usage_in_bytes").write_text("3000\n")
    (groups / "memory.stat").write_text("cache 1\ntotal_inactive_file 1000\n")
    assert usage(1) == Usage(2.5, 2000)


def test_the_memory_limit_of_a_control_group_of_version_2(groups: Path) -> None:
    (groups / "memory.max").write_text("268435456\n")
    assert memory_limit(1) == 256 << 20
    (groups / "memory.max").write_text("max\n")
    assert memory_limit(1) == NO_LIMIT


def test_the_memory_limit_of_a_control_group_of_version_1(groups: Path) -> None:
    (groups / "memory.limit_in_bytes").write_text("268435456\n")
    assert memory_limit(1) == 256 << 20
    (groups / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert memory_limit(1) == NO_LIMIT


def test_a_limit_that_the_engine_set_on_the_group_above_is_the_container_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "container"
    inner.mkdir()
    monkeypatch.setattr(module, "groups_of", lambda _: {"": inner})
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "memory.max").write_text("4096\n")
    assert memory_limit(1) == 4096


@pytest.mark.usefixtures("own_tree")
def test_without_a_group_of_its_own_nobody_knows_the_memory_limit() -> None:
    assert memory_limit(1) is None


def test_what_the_groups_do_not_tell_is_read_from_the_processes(groups: Path) -> None:
    (groups / "cpu.stat").write_text("usage_usec 1500000\n")
    with program(BUSY) as process:
        found = usage(process.pid)
    assert found is not None
    assert found.cpu_seconds == 1.5
    assert found.resident_bytes > 64 << 20


def test_groups_that_others_are_in_too_are_not_a_container_s_own() -> None:
    with program(BUSY) as process:
        assert module.groups_of(process.pid) == {}
