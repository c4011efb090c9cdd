"""`dockyard audit verify` on exports of a real log that hold and that do not, and `dockyard audit verifier`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from dockyard.cli import commands
from dockyard.errors import AuditError, StoreError
from dockyard.supply import audit_verifier
from dockyard.yard.audit import AuditLog, Entry, Outcome
from dockyard.yard.store import Store

KEY = "yard/audit.pub"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuditLog]:
    """A log of ten entries, in the folder where the verbs are called."""
    monkeypatch.chdir(tmp_path)
    store = Store.open(Path("yard/yard.db"))
    log = AuditLog.open(store, Path("yard"))
    for number in range(8):
        log.append(Entry("ada", "scale", "iris", after={"replicas": number}))
    log.append(Entry("token ci", "deploy", "iris", Outcome.REFUSED, rule="signed"))
    yield log
    store.close()


def export(log: AuditLog, change: Callable[[list[bytes]], list[bytes]] = list) -> None:
    Path("audit.log").write_bytes(b"".join(change(b"".join(log.export()).splitlines(keepends=True))))


def verify(*words: str) -> str:
    """What it prints; its error is raised."""
    words = ("audit", "verify", "audit.log", "--key", KEY, *words)
    return CliRunner().invoke(commands, words, catch_exceptions=False, standalone_mode=False).stdout


def test_a_log_that_holds_is_told_with_what_cannot_be_known_without_a_checkpoint(log: AuditLog) -> None:
    export(log)
    entries = len(b"".join(log.export()).partition(b"\n\n")[0].splitlines())
    told = verify()
    assert told.startswith(f"holds: {entries} entries")
    assert "checkpoint" in told
    assert json.loads(verify("--json"))["entries"] == entries


def _edited(lines: list[bytes]) -> list[bytes]:
    return [line.replace(b'"replicas":5', b'"replicas":6') for line in lines]


def _shorter(lines: list[bytes]) -> list[bytes]:
    return [*lines[:4], *lines[5:]]


def _swapped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], lines[4], lines[3], *lines[5:]]


def _cut(lines: list[bytes]) -> list[bytes]:
    return [*lines[: lines.index(b"\n") - 2], *lines[lines.index(b"\n") :]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_edited, "between number"),
        (_shorter, "stands where 4 belongs"),
        (_swapped, "stands where 3 belongs"),
        (_cut, "the last 2 of "),
    ],
)
def test_an_altered_export_does_not_hold_and_the_error_says_what_was_done(
    log: AuditLog, change: Callable[[list[bytes]], list[bytes]], told: str
) -> None:
    export(log, change)
    with pytest.raises(AuditError, match=r"audit\.log does not hold") as caught:
        verify()
    assert told in caught.value.what
    assert "evidence" in caught.value.remedy


def test_a_kept_checkpoint_proves_that_the_export_goes_on_from_it(log: AuditLog) -> None:
    Path("first.txt").write_text(log.checkpoint())
    log.append(Entry("ada", "restart", "iris"))
    Path("second.txt").write_text(log.checkpoint())
    log.append(Entry("ada", "delete", "iris"))
    export(log)
    assert json.loads(verify("--checkpoint", "first.txt", "--checkpoint", "second.txt", "--json"))["checkpoints"] == 2
    assert verify("--checkpoint", "first.txt").startswith("holds: ")


def test_an_older_copy_holds_by_itself_and_not_against_a_checkpoint_that_was_kept(log: AuditLog) -> None:
    export(log)
    log.append(Entry("eve", "token.create"))
    Path("kept.txt").write_text(log.checkpoint())
    assert verify().startswith("holds: ")
    with pytest.raises(AuditError, match="an older copy"):
        verify("--checkpoint", "kept.txt")


def test_a_log_written_anew_with_the_same_key_is_not_the_one_of_the_checkpoint(log: AuditLog) -> None:
    Path("kept.txt").write_text(log.checkpoint())
    store = Store.open(Path("other.db"))
    store.set_note("yard", log.origin.partition("/")[2])
    forged = AuditLog.open(store, Path("yard"))
    for _ in range(20):
        forged.append(Entry("ada", "nothing"))
    export(forged)
    store.close()
    assert verify().startswith("holds: ")
    with pytest.raises(AuditError, match="it was rewritten"):
        verify("--checkpoint", "kept.txt")


def test_a_checkpoint_that_another_key_signed_proves_nothing(log: AuditLog) -> None:
    export(log)
    store = Store.open(Path("elsewhere/yard.db"))
    Path("kept.txt").write_text(AuditLog.open(store, Path("elsewhere")).checkpoint())
    store.close()
    with pytest.raises(AuditError, match="does not hold"):
        verify("--checkpoint", "kept.txt")
    Path("kept.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(AuditError, match="not text"):
        verify("--checkpoint", "kept.txt")


def test_the_verifier_is_written_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = Path(audit_verifier.__file__).read_bytes()
    run = CliRunner()
    result = run.invoke(commands, ["audit", "verifier", "check.py"])
    assert (Path("check.py").read_bytes(), result.stdout) == (program, "")
    assert "python3 check.py" in result.stderr
    assert run.invoke(commands, ["audit", "verifier", "-"]).stdout_bytes == program
    error = run.invoke(commands, ["audit", "verifier", "nowhere/check.py"], standalone_mode=False).exception
    assert isinstance(error, StoreError)
    assert "nowhere" in error.what
