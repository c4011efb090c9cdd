"""RECORD, the list that an installed distribution keeps of its files, with their hashes.

What a build changes in installed files, it changes here too. Called by `wheels`, `trim` and `installed`. Source: PyPA,
recording of installed projects.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Collection, Mapping
from pathlib import Path


def listed(record: Path) -> frozenset[str]:
    """The paths in a RECORD."""
    return frozenset(row[0] for row in _rows(record))


def mend(record: Path, gone: Collection[str], changed: Mapping[str, bytes]) -> None:
    """Take out the lines of files that are `gone`, give the `changed` ones their new hash, and sort the lines."""
    kept = (row for row in _rows(record) if row[0] not in gone)
    rows = sorted(_line(row[0], changed[row[0]]) if row[0] in changed else row for row in kept)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    replace(record, out.getvalue().encode())


def replace(path: Path, content: bytes) -> None:
    """Write a file anew with its mode. What was installed is a link into uv's cache, and must stay as it is there."""
    mode = path.stat().st_mode & 0o777
    path.unlink()
    path.write_bytes(content)
    path.chmod(mode)


def _rows(record: Path) -> list[list[str]]:
    with record.open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.reader(stream) if row]


def _line(path: str, content: bytes) -> list[str]:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return [path, f"sha256={digest}", str(len(content))]
