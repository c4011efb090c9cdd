"""Resources of a container (memory, CPU, pids), and how people write and read bytes.

Written in `[run]` of dockyard.toml and as options of `dockyard run`; enforced by `engines`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dockyard.errors import ProjectError

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_DECIMAL = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMG]i?B?|B)?$")


@dataclass(frozen=True)
class Resources:
    """What a container may use: bytes of memory (no swap on top), CPUs (a fraction is fine), processes and threads."""

    memory: int = 2 * 2**30
    cpus: float = 1.0
    pids: int = 256


def parse_bytes(text: str) -> int:
    """`512MiB`, `2G`, `1.5GB` or a plain number, in bytes. K, M, G and KiB... are powers of 1024; KB... of 1000."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise ProjectError(
            f"{text!r} is not an amount of memory", remedy="Write it like 512MiB, 2GiB or 500MB, or in bytes."
        )
    number, unit = float(match[1]), match[2] or ""
    return int(number * (_DECIMAL[unit] if unit in _DECIMAL else _UNITS[unit[:1]]))


def format_bytes(count: float) -> str:
    """A number of bytes for people, in powers of 1000 as registries and disks count: `61.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
