"""`dockyard restore` as an operator uses it: check, restore, and what is told when it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dockyard.spec.home import Home
from dockyard.yard.audit import AuditLog, Entry
from dockyard.yard.backup import write_backup
from dockyard.yard.store import Store
from tests.support.projects import CommandLine
from tests.yard.conftest import ADA, revision


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup of a yard with one deployment, beside the yard's public key and a later checkpoint."""
    home = Home(tmp_path / "home")
    store = Store.open(home.yard / "yard.db")
    log = AuditLog.open(store, home.yard)
    store.add_revision(revision(), ADA)
    log.checkpoint()
    write_backup(home, tmp_path / "yard.backup")
    log.append(Entry("ada", "deploy", "iris"))
    (tmp_path / "later.txt").write_text(log.checkpoint())
    (tmp_path / "audit.pub").write_bytes((home.yard / "audit.pub").read_bytes())
    store.close()
    return tmp_path / "yard.backup"


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    return CommandLine(Home(tmp_path / "other"))


def test_a_backup_is_checked_without_restoring_it(line: CommandLine, backup: Path) -> None:
    checked = line("restore", str(backup), "--verify", "--key", str(backup.parent / "audit.pub"), "--json")
    assert checked.returncode == 0, checked.stderr
    told = json.loads(checked.stdout)
    assert (told["restored"], told["audit"]["entries"], told["images"][0]["included"]) == (False, 1, False)
    assert not line.home.yard.exists()


def test_a_yard_is_restored_and_what_it_still_needs_is_told(line: CommandLine, backup: Path) -> None:
    restored = line("restore", str(backup))
    assert restored.returncode == 0, restored.stderr
    assert "is whole: yard" in restored.stdout
    assert "not in the backup: iris:one sha256:" in restored.stdout
    assert f"restored to {line.home.yard}" in restored.stdout
    store = Store.open(line.home.yard / "yard.db")
    assert store.deployment("iris").wanted == 1
    store.close()
    again = line("restore", str(backup))
    assert again.returncode == 1
    assert "has a yard already" in again.stderr


def test_an_older_backup_than_a_kept_checkpoint_is_refused(line: CommandLine, backup: Path) -> None:
    refused = line("restore", str(backup), "--checkpoint", str(backup.parent / "later.txt"))
    assert refused.returncode == 1
    assert "an older copy" in refused.stderr
    assert "another backup" in refused.stderr
    assert not line.home.yard.exists()


def test_a_damaged_backup_restores_nothing(line: CommandLine, backup: Path) -> None:
    backup.write_bytes(backup.read_bytes().replace(b"iris", b"Iris", 3))
    refused = line("restore", str(backup))
    assert refused.returncode == 1
    assert "is not a whole backup" in refused.stderr
    assert not line.home.yard.exists()
