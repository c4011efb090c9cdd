"""Backups are made one at a time, and leave nothing in the home however they end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from dockyard.errors import YardBusyError
from dockyard.spec.home import Home
from dockyard.yard import backing_up
from dockyard.yard.audit import AuditLog
from dockyard.yard.backing_up import Backups
from dockyard.yard.backup import write_backup
from dockyard.yard.restoring import check_backup
from dockyard.yard.store import FILE_NAME, Store
from tests.yard.conftest import ADA, revision


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    store = Store.open(home.yard / FILE_NAME)
    store.add_revision(revision(), ADA)
    AuditLog.open(store, home.yard).checkpoint()
    yield home
    store.close()


def left(home: Home) -> list[str]:
    return [each.name for each in home.yard.iterdir() if "backup" in each.name]


async def test_a_backup_is_whole_and_what_it_took_is_free_again(home: Home, tmp_path: Path) -> None:
    (home.yard / "backup-of-a-yard-that-was-killed").mkdir()
    data = b"".join([piece async for piece in Backups(home).make(images=True)])
    (tmp_path / "yard.tar").write_bytes(data)
    assert check_backup(tmp_path / "yard.tar").images[0].deployment == "iris"
    assert left(home) == []


async def test_a_second_one_has_to_wait_until_the_first_has_ended(home: Home) -> None:
    backups = Backups(home)
    async with aclosing(backups.make(images=False)) as first:
        await anext(first)
        with pytest.raises(YardBusyError, match="already"):
            await anext(backups.make(images=False))
    assert [piece async for piece in backups.make(images=False)]
    assert left(home) == []


async def test_nothing_is_removed_under_a_backup_whose_caller_is_gone(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def slow(*words: Any, **options: Any) -> None:
        begun.set()
        go_on.wait(5)
        seen.append(write_backup(*words, **options))

    monkeypatch.setattr(backing_up, "write_backup", slow)
    asked = asyncio.ensure_future(anext(Backups(home).make(images=False)))
    await asyncio.to_thread(begun.wait, 5)
    asked.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert len(seen) == 1
    assert left(home) == []
