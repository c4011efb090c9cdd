"""Advisories in the shapes in which they are published, small: OSV records, zips of them, Debian's tracker.

Used by the tests of `supply`, `cli`, the journeys and the documentation. All problems are invented.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def record(name: str, *affected: Record, **fields: Any) -> Record:
    """An OSV record."""
    return {
        "schema_version": "1.7.0",
        "id": name,
        "modified": "2031-05-02T03:04:05Z",
        "published": "2031-05-01T00:00:00Z",
        "affected": list(affected),
        **fields,
    }


def affected(ecosystem: str, package: str, *events: Record, versions: Sequence[str] = (), **fields: Any) -> Record:
    """What it says of a package: one range of `events`, and versions by name."""
    told: Record = {"package": {"ecosystem": ecosystem, "name": package}, **fields}
    if events:
        told["ranges"] = [{"type": "ECOSYSTEM", "events": list(events)}]
    if versions:
        told["versions"] = list(versions)
    return told


def write_archive(path: Path, *records: Record) -> Path:
    """The zip of an ecosystem."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in records:
            archive.writestr(f"{one['id']}.json", json.dumps(one))
    return path


def write_json(path: Path, content: Any) -> Path:
    """One JSON file."""
    path.write_text(json.dumps(content))
    return path


def tracked(status: str, fixed: str = "", **fields: Any) -> Record:
    """One release's state in Debian's tracker."""
    told = {"status": status, "urgency": "not yet assigned", "repositories": {"bookworm": "1.0-1"}, **fields}
    return told | ({"fixed_version": fixed} if fixed else {})
