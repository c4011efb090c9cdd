"""Other processes as /proc shows them, for tests that count, kill or await them; each may end while it is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def command_lines() -> Iterator[tuple[int, list[bytes]]]:
    """The process id and arguments of each that runs now; one that ends meanwhile is left out."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            continue
        yield int(folder.name), words


def children(pid: int) -> list[int]:
    """Those that any of its threads has started and that it has not yet waited for; none where it has ended."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in file.read_text().split()]
    return found


def lives(pid: int) -> bool:
    """Whether it runs; one that has ended and is not yet waited for does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def monitor_of(name: str) -> int:
    """The process id of the monitor that keeps watch over a container of runc's."""
    for pid, words in command_lines():
        if any(word.endswith(b"monitor.py") for word in words) and any(name.encode() in word for word in words):
            return pid
    raise AssertionError(f"{name} has no monitor")
