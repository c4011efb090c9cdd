"""The audit log: what was written is listed and proved, and every way of altering it is noticed."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.errors import AuditError, SigningKeyError, StoreError
from dockyard.supply import audit_verifier, ledger
from dockyard.supply.audit_verifier import DoesNotHoldError, check
from dockyard.supply.keys import LogKey, LogPublicKey
from dockyard.supply.note import Checkpoint, open_checkpoint, sign_checkpoint
from dockyard.yard.audit import CHECKPOINTS_KEPT, AuditLog, Entry, Outcome
from dockyard.yard.store import Store
from tests.yard.conftest import ADA, Clock, revision

VERIFIER = Path(audit_verifier.__file__)


@pytest.fixture
def log(store, path):
    return AuditLog.open(store, path.parent)


@pytest.fixture
def filled(log):
    for number in range(12):
        log.append(Entry("ada", "scale", "iris", before={"replicas": number}, after={"replicas": number + 1}))
    return log


def keys(log):
    return [key.encode() for key in log.keys]


def exported(log):
    return b"".join(log.export()).splitlines(keepends=True)


def split(lines):
    end = lines.index(b"\n")
    return lines[:end], lines[end:]


def test_entries_say_who_did_what_and_are_found_again(log, clock):
    entry = Entry(
        "token ci",
        "deploy",
        "iris",
        Outcome.REFUSED,
        why="a better model",
        rule="signed",
        before={"revision": 1},
        after=None,
    )
    written = log.append(entry)
    assert log.newest(limit=1) == (written,)
    assert (written.entry, written.number, written.at) == (entry, 1, clock.time)
    assert [one.number for one in log.after(-1)] == [0, 1]
    assert log.after(written.number) == ()


def test_an_entry_is_canonical_json(log, store):
    log.append(Entry("ada", "x", after={"b": 1, "a": [1.0, 1e30, "é\x1b"]}))
    leaf = bytes(store.database.one("SELECT leaf FROM audit_entries WHERE number = 1")["leaf"])
    assert (
        leaf
        == (
            '{"action":"x","after":{"a":[1,1e+30,"é\\u001b"],"b":1},"at":"2027-01-15T08:00:00.000000Z","before":null,'
            '"number":1,"outcome":"done","rule":"","target":"","who":"ada","why":""}'
        ).encode()
    )


@pytest.mark.parametrize(
    "value",
    ["\ud800", "a\nb\x1b[31m\u202e", "x" * 1_000_000, 2**70, float("nan"), {"x": {1, 2}}, [[[["deep"]]]], b"bytes"],
)
def test_whatever_is_written_down_the_log_goes_on_and_holds(log, value):
    log.append(Entry(str(value), "x", str(value), why=str(value), after={"value": value}))
    log.append(Entry("ada", "y"))
    assert log.verify().entries == 3
    assert all(len(line) < 200_000 and line.count(b"\n") == 1 for line in exported(log))


def test_a_change_and_its_entry_are_one(log, store):
    def fails():
        with store.together():
            log.append(Entry("ada", "deploy", "iris"))
            store.add_revision(revision(), ADA)
            raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError):
        fails()
    assert log.size == 1
    assert store.deployments() == ()
    log.append(Entry("ada", "deploy", "iris"))
    assert log.verify().entries == 2


def test_a_whole_log_holds(filled):
    report = check(exported(filled), keys(filled), [filled.checkpoint()])
    assert (report.entries, report.kept, report.root) == (13, 1, filled.root(13))


def test_the_stand_alone_verifier_says_so(filled, path, tmp_path):
    (tmp_path / "log").write_bytes(b"".join(exported(filled)))
    (tmp_path / "kept").write_text(filled.checkpoint())
    (tmp_path / "verifier.py").write_bytes(VERIFIER.read_bytes())
    words = [sys.executable, "-I", "verifier.py", "log", "--key", str(path.parent / "audit.pub")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.startswith("holds: 13 entries of dockyard-yard/")
    assert "not known: whether newer entries were removed" in done.stdout
    done = subprocess.run(
        [*words, "--checkpoint", "kept"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30
    )
    assert "nothing that 1 kept checkpoints prove is missing" in done.stdout
    (tmp_path / "log").write_bytes((tmp_path / "log").read_bytes().replace(b'"ada"', b'"eve"', 1))
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr[:14]) == (1, "DOES NOT HOLD:")
    done = subprocess.run([*words, "--checkpoint", "no"], cwd=tmp_path, capture_output=True, check=False, timeout=30)
    assert done.returncode == 2


def test_the_verifier_needs_nothing_of_ours():
    imports = [line for line in VERIFIER.read_text().splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imports if "dockyard" in line or "msgspec" in line]


def edited(lines):
    entries, tail = split(lines)
    return [*entries[:4], entries[4].replace(b'"replicas":4', b'"replicas":9'), *entries[5:], *tail]


def deleted_in_the_middle(lines):
    return [*lines[:4], *lines[5:]]


def deleted_and_numbered_anew(lines):
    entries, tail = split(lines)
    told = [json.loads(line) for line in [*entries[:4], *entries[5:]]]
    return [json.dumps({**one, "number": n}).encode() + b"\n" for n, one in enumerate(told)] + tail


def cut_off(lines):
    entries, tail = split(lines)
    return [*entries[:-2], *tail]


def reordered(lines):
    return [*lines[:3], lines[4], lines[3], *lines[5:]]


def added(lines):
    entries, tail = split(lines)
    more = entries[-1].replace(b'"number":12', b'"number":13')
    return [*entries, more, *tail]


def without_checkpoint(lines):
    return split(lines)[0]


def another_size(lines):
    entries, tail = split(lines)
    return [*entries, tail[0], tail[1], b"12\n", *tail[3:]]


def another_root(lines):
    entries, tail = split(lines)
    other = b"B" if tail[3].startswith(b"A") else b"A"
    return [*entries, *tail[:3], other + tail[3][1:], *tail[4:]]


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (edited, "an entry was changed after it was written"),
        (deleted_in_the_middle, "entry 5 stands where 4 belongs"),
        (deleted_and_numbered_anew, "the last 1 of 13 entries are missing"),
        (cut_off, "the last 2 of 13 entries are missing"),
        (reordered, "entry 4 stands where 3 belongs"),
        (added, "1 entries were added after"),
        (without_checkpoint, "no checkpoint at its end"),
        (another_size, "not signed with the log's key"),
        (another_root, "not signed with the log's key"),
    ],
)
def test_every_attack_on_an_export_is_noticed_and_named(filled, attack, told):
    with pytest.raises(DoesNotHoldError, match=told):
        check(attack(exported(filled)), keys(filled))


def test_kept_checkpoints_say_where_an_entry_was_changed(log):
    kept = []
    for _ in range(12):
        log.append(Entry("ada", "scale", "iris", after={"replicas": 4}))
        kept.append(log.checkpoint())
    lines = exported(log)
    entries, tail = split(lines)
    changed = [*entries[:5], entries[5].replace(b"ada", b"eve"), *entries[6:], *tail]
    with pytest.raises(DoesNotHoldError, match="between number 4 and 6"):
        check(changed, keys(log), [kept[2], kept[5], kept[9]])


def test_an_old_copy_put_back_is_noticed_by_a_checkpoint_kept_elsewhere(filled):
    old = exported(filled)
    filled.append(Entry("eve", "token.create", "back door"))
    kept = filled.checkpoint()
    assert check(old, keys(filled)).entries == 13
    with pytest.raises(DoesNotHoldError, match="an older copy was put in its place"):
        check(old, keys(filled), [kept])


def test_a_log_written_anew_with_the_stolen_key_is_noticed_by_a_checkpoint_kept_elsewhere(filled, path, clock):
    kept = filled.checkpoint()
    other = Store.open(path.with_name("other.db"), clock=clock)
    other.set_note("yard", filled.origin.partition("/")[2])
    forged = AuditLog.open(other, path.parent)
    for _ in range(20):
        forged.append(Entry("ada", "nothing", "happened"))
    assert check(exported(forged), keys(filled)).entries == 21
    with pytest.raises(DoesNotHoldError, match="it was rewritten"):
        check(exported(forged), keys(filled), [kept])
    other.close()


def test_another_yards_checkpoint_and_another_key_prove_nothing(filled):
    stranger = LogKey.generate("dockyard-yard/other")
    note = sign_checkpoint(Checkpoint("dockyard-yard/other", 1, filled.root(1)), stranger)
    with pytest.raises(DoesNotHoldError, match="of another log"):
        check(exported(filled), [*keys(filled), stranger.public.encode()], [note])
    impostor = LogKey.generate(filled.origin)
    with pytest.raises(DoesNotHoldError, match="not signed with the log's key"):
        check(exported(filled), [impostor.public.encode()])
    with pytest.raises(DoesNotHoldError, match="not the public key of a log"):
        check(exported(filled), ["nonsense"])


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_whatever_a_file_holds_the_verifier_only_refuses(lines):
    key = LogKey.generate("x").public.encode()
    with pytest.raises(DoesNotHoldError):
        check(lines, [key])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_entries SET leaf = replace(leaf, 'ada', 'eve') WHERE number = 3",
        "DELETE FROM audit_entries WHERE number = 12",
        "DELETE FROM audit_entries WHERE number = 3",
    ],
)
def test_the_database_refuses_to_change_entries(filled, store, change):
    with pytest.raises(StoreError, match="audit entry"):
        store.database.execute(change)
    filled.verify()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE audit_entries SET leaf = CAST(replace(leaf, 'ada', 'eve') AS BLOB) WHERE number = 3", "was changed"),
        ("DELETE FROM audit_entries WHERE number = 12", "an older copy|cut off"),
        ("DELETE FROM audit_entries WHERE number = 3", "stands where 3 belongs"),
    ],
)
def test_who_changes_the_database_itself_is_found_out_by_the_yard(filled, path, change, told):
    filled.checkpoint()
    other = sqlite3.connect(path)
    for trigger in ("audit_entries_never_change", "audit_entries_are_never_removed"):
        other.execute(f"DROP TRIGGER {trigger}")
    other.execute(change)
    other.commit()
    other.close()
    with pytest.raises(AuditError, match=told):
        filled.verify()


def test_entries_and_growth_are_proved(filled):
    old = filled.size
    old_root = filled.root(old)
    for number in range(9):
        filled.append(Entry("ada", str(number)))
    new = filled.size
    leaf = bytes.fromhex(filled.after(6, limit=1)[0].hash)
    assert ledger.includes(7, new, leaf, filled.inclusion(7, new), filled.root(new))
    assert ledger.extends(old, new, old_root, filled.root(new), filled.consistency(old, new))


def test_a_checkpoint_is_a_note_that_others_read(filled):
    note = filled.checkpoint()
    lines = note.split("\n")
    assert lines[:2] == [filled.origin, "13"]
    assert lines[3] == ""
    assert lines[4].startswith(f"\N{EM DASH} {filled.origin} ")
    assert note == filled.checkpoint()
    assert open_checkpoint(note, filled.keys) == Checkpoint(filled.origin, 13, filled.root(13))
    for broken in (note.replace("13", "14", 1), note.replace("\n\n", "\n"), "", note[:-10], "x" * (2 << 20)):
        with pytest.raises(AuditError):
            open_checkpoint(broken, filled.keys)


def test_only_so_many_checkpoints_are_kept(log, store):
    with store.together():
        for number in range(CHECKPOINTS_KEPT + 3):
            log.append(Entry("ada", str(number)))
            log.checkpoint()
    kept = log.checkpoints()
    assert len(kept) == CHECKPOINTS_KEPT
    assert kept[-1] == log.checkpoint()


def test_the_key_is_made_once_and_for_its_owner_alone(log, store, path):
    assert stat.S_IMODE((path.parent / "audit.key").stat().st_mode) == 0o600
    again = AuditLog.open(store, path.parent)
    assert again.keys == log.keys
    assert again.size == log.size == 1
    assert (path.parent / "audit.pub").read_text() == f"{log.keys[0].encode()}\n"
    assert "PRIVATE" not in repr(log.keys)


def test_a_lost_key_is_replaced_and_that_is_written_down(filled, store, path):
    kept = filled.checkpoint()
    (path.parent / "audit.key").unlink()
    again = AuditLog.open(store, path.parent)
    assert len(again.keys) == 2
    (entry,) = again.newest(limit=1)
    assert (entry.entry.action, entry.entry.before, entry.entry.after) == (
        "audit.key",
        again.keys[0].encode(),
        again.keys[1].encode(),
    )
    again.verify([kept])


def test_a_key_that_cannot_be_used_is_told(log, store, path):
    (path.parent / "audit.key").write_text("nonsense")
    with pytest.raises(SigningKeyError, match="not a private key"):
        AuditLog.open(store, path.parent)
    with pytest.raises(SigningKeyError, match="public key of a log"):
        LogPublicKey.decode("a+b+c", "it")


def test_a_long_log_is_appended_to_and_verified(log, store):
    with store.together():
        for number in range(20_000):
            log.append(Entry("ada", "tick", str(number)))
    assert log.verify().entries == 20_001


def test_the_clock_may_jump_back(log, clock: Clock):
    log.append(Entry("ada", "first"))
    clock.time -= 1e6
    log.append(Entry("ada", "second"))
    assert [one.entry.action for one in log.newest(limit=2)] == ["first", "second"]
    log.verify()
