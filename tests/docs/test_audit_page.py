"""The page about the audit log, followed on a real one: every attack in its table is noticed by its commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dockyard.spec.home import Home
from dockyard.yard.audit import AuditLog, Entry, Outcome
from dockyard.yard.store import Store
from tests.docs.pages import DOCS, blocks, rows

PAGE = DOCS / "how-to" / "audit.md"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def log(home: Home) -> Iterator[AuditLog]:
    store = Store.open(home.yard / "yard.db")
    log = AuditLog.open(store, home.yard)
    for number in range(9):
        log.append(Entry("ada", "scale", "iris", after={"replicas": number}))
    log.append(Entry("token ci", "deploy", "iris", Outcome.REFUSED, rule="signed"))
    yield log
    store.close()


def block(mark: str) -> str:
    (found,) = (one.text for one in blocks(PAGE) if one.mark == mark)
    return found


def follow(mark: str, folder: Path, home: Home) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DOCKYARD_HOME": str(home.root)}
    words = ["bash", "-euc", block(mark)]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def export(log: AuditLog, folder: Path) -> list[bytes]:
    (folder / "audit.log").write_bytes(b"".join(log.export()))
    return (folder / "audit.log").read_bytes().splitlines(keepends=True)


def test_the_page_can_be_followed(log: AuditLog, home: Home, tmp_path: Path) -> None:
    assert follow("the verifier", tmp_path, home).returncode == 0
    assert block("the log").split() == ["dockyard", "audit", "export", "audit.log"]
    export(log, tmp_path)
    assert follow("the checkpoint", tmp_path, home).returncode == 0
    assert (tmp_path / "checkpoint.txt").read_text() == log.checkpoint()
    log.append(Entry("ada", "restart", "iris"))
    export(log, tmp_path)
    checked = follow("the check", tmp_path, home)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("holds: 12 entries")
    assert '"rule":"signed"' in follow("reading", tmp_path, home).stdout


def _edit(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"replicas":5', b'"replicas":6') for line in lines]


def _remove(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], *lines[5:]]


def _cut(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-8], *lines[-6:]]


ATTACKS: tuple[tuple[Callable[[list[bytes]], list[bytes]], str], ...] = (
    (_edit, "between number"),
    (_remove, "stands where 4 belongs"),
    (_cut, "the last 2 of 11 entries are missing"),
)


def test_what_was_done_to_a_log_is_told(log: AuditLog, home: Home, tmp_path: Path) -> None:
    follow("the verifier", tmp_path, home)
    lines = export(log, tmp_path)
    follow("the checkpoint", tmp_path, home)
    told = []
    for attack, expected in ATTACKS:
        (tmp_path / "audit.log").write_bytes(b"".join(attack(lines)))
        told.append((follow("the check", tmp_path, home), expected))
    (tmp_path / "audit.log").write_bytes(b"".join(lines))
    log.append(Entry("eve", "token.create"))
    (tmp_path / "checkpoint.txt").write_text(log.checkpoint())
    told.append((follow("the check", tmp_path, home), "an older copy"))
    (tmp_path / "checkpoint.txt").write_text(_written_anew(log, home, tmp_path))
    told.append((follow("the check", tmp_path, home), "it was rewritten"))
    for checked, expected in told:
        assert checked.returncode == 1
        assert expected in checked.stderr
    assert len(told) == len(rows(PAGE, "When the auditor comes"))


def _written_anew(log: AuditLog, home: Home, folder: Path) -> str:
    """Another log under the same name and key; the checkpoint of the true one."""
    true = next(note for note in log.checkpoints())
    store = Store.open(folder / "other.db")
    store.set_note("yard", log.origin.partition("/")[2])
    forged = AuditLog.open(store, home.yard)
    for _ in range(20):
        forged.append(Entry("ada", "nothing"))
    export(forged, folder)
    store.close()
    return true
