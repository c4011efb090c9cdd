"""The processes that keep watch over runc's containers, for tests that kill them."""

from __future__ import annotations

from pathlib import Path


def monitor_of(name: str) -> int:
    """The process id of a container's monitor."""
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"monitor.py") for word in words) and any(name.encode() in word for word in words):
            return int(status.parent.name)
    raise AssertionError(f"{name} has no monitor")
