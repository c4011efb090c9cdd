"""A yard out of its backup: `dockyard restore`, and `--verify`, which only checks one.

Everything is checked before anything is there: every hash, the store, the audit log. `restore` puts all of it on an
empty home, or nothing. No private key is in a backup: the restored yard makes a new one for its log, and says so there.
In another home than that of the backup it knows no replica, and so touches none of the yard that may still run there.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dockyard.errors import AuditError, ImageError, StoreDamagedError, StoreError
from dockyard.oci.bundle import read_bundle
from dockyard.oci.files import store_errors, sync_folder
from dockyard.oci.layout import Layout
from dockyard.oci.tar import Member, TarReader
from dockyard.spec.home import Home
from dockyard.spec.resources import format_bytes
from dockyard.supply.audit_verifier import DoesNotHoldError, Report, check, keys_in
from dockyard.yard import backup_format as form
from dockyard.yard.audit import PUBLIC_KEY
from dockyard.yard.backup_format import BackedUpImage, Manifest
from dockyard.yard.database import reading, translated
from dockyard.yard.store import FILE_NAME


@dataclass(frozen=True)
class Checked:
    """A backup that holds: its manifest, what its audit log says, and the images to have again."""

    manifest: Manifest
    audit: Report
    images: tuple[BackedUpImage, ...]


def check_backup(source: Path, *, keys: Sequence[str] = (), kept: Sequence[str] = ()) -> Checked:
    """Check a backup without restoring it: every hash, the store, the audit log.

    `keys`: of the audit log, as kept elsewhere; without any, those in the backup. `kept`: checkpoints kept elsewhere.
    """
    with form.staged(source.absolute().parent) as stage:
        return _unpack_and_check(source, stage, keys, kept)


def restore(source: Path, home: Home, *, keys: Sequence[str] = (), kept: Sequence[str] = ()) -> Checked:
    """Put a backup onto a home that has no yard yet, after checking all of it. StoreError, AuditError: then nothing is
    there that was not before."""
    with store_errors(home.root):
        home.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if home.yard.exists() and any(home.yard.iterdir()):
            raise StoreError(
                f"{home.yard} has a yard already, and nothing is written over it",
                remedy="Move it away, or name another home with DOCKYARD_HOME.",
            )
    with form.staged(home.root) as stage:
        checked = _unpack_and_check(source, stage, keys, kept)
        _forget_elsewhere(stage / "yard" / FILE_NAME, home)
        if (stage / form.BUNDLE).exists():
            read_bundle(stage / form.BUNDLE, Layout.create(home.images))
        with store_errors(home.root):
            _place_keys(stage, home)
            home.yard.mkdir(exist_ok=True)
            (stage / "yard").chmod(0o700)
            (stage / "yard").rename(home.yard)
        sync_folder(home.root)
        return checked


def _unpack_and_check(source: Path, stage: Path, keys: Sequence[str], kept: Sequence[str]) -> Checked:
    manifest = _unpack(source, stage)
    found = dict(form.items(stage))
    found.pop(form.MANIFEST)
    for name in sorted({*found, *manifest.files}):
        if found.get(name) != manifest.files.get(name):
            raise _damaged(source, f"{name} is not what was backed up" if name in found else f"{name} is missing")
    with translated(stage / "yard" / FILE_NAME), reading(stage / "yard" / FILE_NAME) as connection:
        report = _check_log(source, stage, keys, kept)
        _check_store(source, stage, connection)
    images = msgspec.json.decode((stage / form.IMAGES).read_bytes(), type=tuple[BackedUpImage, ...])
    for leftover in (form.MANIFEST, form.AUDIT, form.IMAGES):
        (stage / leftover).unlink()
    return Checked(manifest, report, images)


def _unpack(source: Path, stage: Path) -> Manifest:
    """Write the members out: the manifest, which comes first, then the plain files that it tells, of the sizes that it
    tells."""
    with store_errors(source):
        stream = source.open("rb")
    with stream:
        reader = TarReader(stream, "its tar", form.MEMBERS_LIMIT)
        try:
            return _write_members(source, reader, stage)
        except ImageError as error:
            raise _damaged(source, error.what) from error


def _write_members(source: Path, reader: TarReader, stage: Path) -> Manifest:
    manifest: Manifest | None = None
    for member in reader:
        if manifest is None:
            if (member.name, member.kind) != (form.MANIFEST, "file") or member.size > form.MANIFEST_LIMIT:
                raise _no_manifest(source)
            _write_out(stage / form.MANIFEST, reader)
            manifest = _read_manifest(source, stage)
        else:
            _check_member(source, member, manifest, stage)
            _write_out(stage / member.name, reader)
    if manifest is None:
        raise _no_manifest(source)
    return manifest


def _check_member(source: Path, member: Member, manifest: Manifest, stage: Path) -> None:
    told = manifest.files.get(member.name)
    allowed = told is not None and member.kind == "file" and form.is_name(member.name)
    if told is None or not allowed or (stage / member.name).exists():
        raise _damaged(source, f"it has {member.name[:100]!r}, which no backup has")
    if member.size != told.size:
        raise _damaged(source, f"{member.name} is not what was backed up")
    if member.name == form.BUNDLE and member.size > form.IMAGES_LIMIT:
        raise _damaged(source, f"it has {format_bytes(member.size)} of images")


def _write_out(path: Path, reader: TarReader) -> None:
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with store_errors(path), path.open("xb") as file:
        file.writelines(reader.content())


def _read_manifest(source: Path, stage: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode((stage / form.MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise _no_manifest(source) from error
    if manifest.format != form.FORMAT:
        raise StoreError(
            f"{source} is a backup of format {manifest.format}", remedy="Restore it with the Dockyard that wrote it."
        )
    for needed in (f"yard/{FILE_NAME}", f"yard/{PUBLIC_KEY}", form.AUDIT, form.IMAGES):
        if needed not in manifest.files:
            raise _damaged(source, f"it lacks {needed}")
    return manifest


def _check_log(source: Path, stage: Path, keys: Sequence[str], kept: Sequence[str]) -> Report:
    known = keys or keys_in((stage / "yard" / PUBLIC_KEY).read_text(encoding="utf-8"))
    try:
        with (stage / form.AUDIT).open("rb") as file:
            return check(file, known, kept)
    except DoesNotHoldError as error:
        raise AuditError(
            f"the audit log in {source} does not hold: {error}", remedy="Restore another backup, whose log holds."
        ) from error


def _check_store(source: Path, stage: Path, connection: sqlite3.Connection) -> None:
    """The store is sound, and its log begins with the one that was checked."""
    found: list[Any] = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    if found != ["ok"]:
        raise _damaged(source, f"its store is damaged: {found[0]}")
    leaves = connection.execute("SELECT leaf FROM audit_entries ORDER BY number")
    with (stage / form.AUDIT).open("rb") as file:
        for line in file:
            if line == b"\n":
                return
            row = leaves.fetchone()
            if row is None or bytes(row["leaf"]) + b"\n" != line:
                raise _damaged(source, "its store has another audit log than the one beside it")


def _forget_elsewhere(store: Path, home: Home) -> None:
    """Forget the replicas that have their sockets in another home: the yard starts new ones, of other names, here.

    The yard that was backed up may still run there, and their names and sockets are its own.
    """
    with translated(store), contextlib.closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        found = connection.execute("SELECT id, folder FROM replicas").fetchall()
        here = home.containers.resolve()
        gone = [(name,) for name, folder in found if not Path(folder).resolve().is_relative_to(here)]
        connection.executemany("DELETE FROM replicas WHERE id = ?", gone)
        connection.execute("COMMIT")


def _place_keys(stage: Path, home: Home) -> None:
    """Public keys that are not there yet; one of the same name and another content stays, and refuses the restore."""
    pairs = [(path, home.root / path.relative_to(stage)) for path in sorted((stage / "keys").rglob("*.pub"))]
    for staged, final in pairs:
        if final.exists() and final.read_bytes() != staged.read_bytes():
            raise StoreError(
                f"{final} is another key than the one in the backup", remedy="Move it away, then restore again."
            )
    for staged, final in pairs:
        final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        staged.replace(final)


def _no_manifest(source: Path) -> StoreDamagedError:
    return _damaged(source, "it has no manifest that can be read")


def _damaged(source: Path, why: str) -> StoreDamagedError:
    return StoreDamagedError(f"{source} is not a whole backup: {why}", remedy="Restore another backup.")
