"""The page about the audit log, followed on a real one: every attack in its table is noticed by its commands."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cryptography
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


@dataclass(frozen=True)
class Places:
    """The yard's host, installed as docs/operations/install.md says, and the auditor's machine, without Dockyard."""

    host: Path
    """A folder of programs: `dockyard`, and a `python3` that has never heard of it."""
    auditor: Path
    """A folder of programs: a `python3` with `cryptography`, and nothing else of ours."""

    def follow(self, mark: str, folder: Path, home: Home, *, auditor: bool = False) -> Run:
        """Run a block of the page as it is written."""
        path = f"{self.auditor if auditor else self.host}:/usr/bin:/bin"
        environment = {"PATH": path, "DOCKYARD_HOME": str(home.root), "HOME": str(folder)}
        return run(["bash", "-euc", block(mark)], cwd=folder, env=environment)


Run = subprocess.CompletedProcess[str]


def run(words: Sequence[str | Path], **options: Any) -> Run:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, **options)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    root = tmp_path_factory.mktemp("places")
    for name in ("host", "auditor"):
        run([sys.executable, "-m", "venv", "--without-pip", root / name])
    places = Places(root / "host" / "bin", root / "auditor" / "bin")
    (places.host / "dockyard").symlink_to(Path(sys.executable).parent / "dockyard")
    ours = Path(cryptography.__file__).parents[1]
    (theirs,) = (root / "auditor").glob("lib/python3*/site-packages")
    for each in (*ours.glob("cryptography*"), *ours.glob("cffi*"), *ours.glob("_cffi_backend*")):
        (theirs / each.name).symlink_to(each)
    for folder in (places.host, places.auditor):
        assert "No module named 'dockyard'" in run([folder / "python3", "-c", "import dockyard"]).stderr
    return places


def export(log: AuditLog, folder: Path) -> list[bytes]:
    (folder / "audit.log").write_bytes(b"".join(log.export()))
    return (folder / "audit.log").read_bytes().splitlines(keepends=True)


def test_the_page_can_be_followed(log: AuditLog, home: Home, tmp_path: Path, places: Places) -> None:
    given = places.follow("the verifier", tmp_path, home)
    assert given.returncode == 0, given.stderr
    assert block("the log").split() == ["dockyard", "audit", "export", "audit.log"]
    export(log, tmp_path)
    assert places.follow("the checkpoint", tmp_path, home).returncode == 0
    assert (tmp_path / "checkpoint.txt").read_text() == log.checkpoint()
    log.append(Entry("ada", "restart", "iris"))
    export(log, tmp_path)
    checked = places.follow("the check", tmp_path, home, auditor=True)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("holds: 12 entries")
    assert '"rule":"signed"' in places.follow("reading", tmp_path, home, auditor=True).stdout


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


def test_what_was_done_to_a_log_is_told(log: AuditLog, home: Home, tmp_path: Path, places: Places) -> None:
    places.follow("the verifier", tmp_path, home)
    lines = export(log, tmp_path)
    places.follow("the checkpoint", tmp_path, home)
    check = functools.partial(places.follow, "the check", tmp_path, home, auditor=True)
    told = []
    for attack, expected in ATTACKS:
        (tmp_path / "audit.log").write_bytes(b"".join(attack(lines)))
        told.append((check(), expected))
    (tmp_path / "audit.log").write_bytes(b"".join(lines))
    log.append(Entry("eve", "token.create"))
    (tmp_path / "checkpoint.txt").write_text(log.checkpoint())
    told.append((check(), "an older copy"))
    (tmp_path / "checkpoint.txt").write_text(_written_anew(log, home, tmp_path))
    told.append((check(), "it was rewritten"))
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
