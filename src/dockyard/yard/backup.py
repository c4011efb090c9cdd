"""A yard in one file, and a yard out of it: `dockyard backup` and `dockyard restore`.

A tar of the store, the audit log as auditors read it, the policy, all public keys, the list of images that must be
there again, and a manifest with every file's hash; the images themselves too if asked, then a restore needs no network.
No private key is in it: the restored yard makes a new one for its log, and says so there. `write_backup` reads beside
the running yard and may run in another thread; the service signs a checkpoint first. `restore` puts everything on an
empty home, or nothing.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dockyard import __version__
from dockyard.errors import AuditError, StoreDamagedError, StoreError
from dockyard.oci.bundle import read_bundle, write_bundle
from dockyard.oci.digest import digest_of_file
from dockyard.oci.files import PartialFile, as_store_error, store_errors, sync_folder
from dockyard.oci.layout import Layout
from dockyard.oci.tar import TarReader
from dockyard.spec.home import Home
from dockyard.supply.audit_verifier import DoesNotHoldError, Report, check, keys_in
from dockyard.yard.audit import PUBLIC_KEY
from dockyard.yard.database import copy, reading, translated
from dockyard.yard.store import FILE_NAME

POLICY = "policy.toml"
MANIFEST = "manifest.json"
AUDIT = "audit.log"
IMAGES = "images.json"
BUNDLE = "images.tar"
FORMAT = 1
_NAMES = re.compile(
    r"(yard/[A-Za-z0-9._-]{1,100}|(yard/)?keys/(trusted/)?[A-Za-z0-9._@-]{1,100}\.pub|[a-z]+\.(json|log|tar))"
)
_FILE_LIMIT = 64 << 30
_MEMBERS_LIMIT = 10_000
_IN_USE = """
SELECT deployment, number, image_digest, image_name FROM revisions
WHERE state IN ('pending', 'active', 'kept') ORDER BY deployment, number
"""


class _Item(msgspec.Struct, frozen=True):
    size: int
    digest: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds: each file's size and digest."""

    format: int
    dockyard: str
    yard: str
    files: dict[str, _Item]


class BackedUpImage(msgspec.Struct, frozen=True):
    """An image that a deployment needs; `included`: it is in the backup itself."""

    deployment: str
    revision: int
    digest: str
    name: str
    included: bool = False


@dataclass(frozen=True)
class Checked:
    """A backup that holds: its manifest, what its audit log says, and the images to have again."""

    manifest: Manifest
    audit: Report
    images: tuple[BackedUpImage, ...]


def write_backup(home: Home, target: Path, *, with_images: bool = False) -> Manifest:
    """Write a backup of the yard in `home` to `target`, whole or not at all. StoreError when the disk refuses.

    `with_images`: those of the local store that deployments need, with all that is attached to them.
    """
    store = home.yard / FILE_NAME
    if not store.exists():
        raise StoreError(f"there is no yard at {home.yard}", remedy="Name its home with DOCKYARD_HOME.")
    with _staged(target.absolute().parent) as stage:
        (stage / "yard").mkdir()
        with reading(store) as connection:
            copy(connection, store, stage / "yard" / FILE_NAME)
        yard, images = _extract(stage)
        included = _bundle(home, stage, images) if with_images else frozenset()
        images = [msgspec.structs.replace(one, included=one.digest in included) for one in images]
        with store_errors(stage):
            (stage / IMAGES).write_bytes(msgspec.json.format(msgspec.json.encode(images)))
        for name, source in _public_files(home).items():
            with store_errors(source):
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, stage / name)
        manifest = Manifest(FORMAT, __version__, yard, dict(_items(stage)))
        _pack(stage, manifest, target.absolute())
        return manifest


def check_backup(source: Path, *, keys: Sequence[str] = (), kept: Sequence[str] = ()) -> Checked:
    """Check a backup without restoring it: every hash, the store, the audit log.

    `keys`: of the audit log, as kept elsewhere; without any, those in the backup. `kept`: checkpoints kept elsewhere.
    """
    with _staged(source.absolute().parent) as stage:
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
    with _staged(home.root) as stage:
        checked = _unpack_and_check(source, stage, keys, kept)
        if (stage / BUNDLE).exists():
            read_bundle(stage / BUNDLE, Layout.create(home.images))
        with store_errors(home.root):
            _place_keys(stage, home)
            home.yard.mkdir(exist_ok=True)
            (stage / "yard").chmod(0o700)
            (stage / "yard").rename(home.yard)
        sync_folder(home.root)
        return checked


def _public_files(home: Home) -> dict[str, Path]:
    """What may leave the host besides the store: the policy and public keys."""
    found = [*home.yard.glob("*.pub"), *home.yard.glob("keys/*.pub"), *home.keys.glob("*.pub")]
    found += home.keys.glob("trusted/*.pub")
    if (home.yard / POLICY).exists():
        found.append(home.yard / POLICY)
    return {str(path.relative_to(home.root)): path for path in found}


def _bundle(home: Home, stage: Path, images: Sequence[BackedUpImage]) -> frozenset[str]:
    """Write those images that the local store has into a bundle; their digests."""
    if not home.images.exists():
        return frozenset()
    layout, needed = Layout.open(home.images), {one.digest for one in images}
    names = {named.name: named.image.digest for named in layout.images() if named.image.digest in needed}
    if names:
        write_bundle(names, layout, stage / BUNDLE, {})
    return frozenset(names.values())


def _extract(stage: Path) -> tuple[str, list[BackedUpImage]]:
    """Write the audit log out of the copied store; the yard's id, and the images that its deployments need."""
    with reading(stage / "yard" / FILE_NAME) as connection, translated(stage):
        newest = connection.execute("SELECT size, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1").fetchone()
        if newest is None:
            raise AuditError("the audit log has no checkpoint yet", remedy="Start the yard once, then back it up.")
        leaves = connection.execute(
            "SELECT leaf FROM audit_entries WHERE number < ? ORDER BY number", (newest["size"],)
        )
        with store_errors(stage), (stage / AUDIT).open("wb") as file:
            file.writelines(bytes(row["leaf"]) + b"\n" for row in leaves)
            file.write(b"\n" + newest["note"].encode())
        images = [BackedUpImage(*row) for row in connection.execute(_IN_USE)]
        yard = connection.execute("SELECT value FROM notes WHERE name = 'yard'").fetchone()
        return str(yard[0]), images


def _items(stage: Path) -> Iterator[tuple[str, _Item]]:
    for path in sorted(stage.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(stage)), _Item(path.stat().st_size, digest_of_file(path))


def _pack(stage: Path, manifest: Manifest, target: Path) -> None:
    data = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"))
    with PartialFile(target.parent, f".{target.name}.partial-") as partial:
        with store_errors(target):
            partial.path.chmod(0o600)
            with (
                partial.path.open("wb") as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                tar.addfile(_member(MANIFEST, len(data)), io.BytesIO(data))
                for name, item in sorted(manifest.files.items()):
                    with (stage / name).open("rb") as content:
                        tar.addfile(_member(name, item.size), content)
        partial.commit(target)
    sync_folder(target.parent)


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


def _unpack_and_check(source: Path, stage: Path, keys: Sequence[str], kept: Sequence[str]) -> Checked:
    _unpack(source, stage)
    manifest = _read_manifest(source, stage)
    found = dict(_items(stage))
    found.pop(MANIFEST)
    for name in sorted({*found, *manifest.files}):
        if found.get(name) != manifest.files.get(name):
            raise _damaged(source, f"{name} is not what was backed up" if name in found else f"{name} is missing")
    with translated(stage / "yard" / FILE_NAME), reading(stage / "yard" / FILE_NAME) as connection:
        report = _check_log(source, stage, keys, kept)
        _check_store(source, stage, connection)
    images = msgspec.json.decode((stage / IMAGES).read_bytes(), type=tuple[BackedUpImage, ...])
    for leftover in (MANIFEST, AUDIT, IMAGES):
        (stage / leftover).unlink()
    return Checked(manifest, report, images)


def _unpack(source: Path, stage: Path) -> None:
    """Write the members out; only names that a backup has, only plain files."""
    with store_errors(source):
        stream = source.open("rb")
    with stream:
        reader = TarReader(stream, str(source), _MEMBERS_LIMIT)
        for member in reader:
            allowed = member.kind == "file" and member.size <= _FILE_LIMIT and _NAMES.fullmatch(member.name)
            if not allowed or ".." in member.name or (stage / member.name).exists():
                raise _damaged(source, f"it has {member.name[:100]!r}, which no backup has")
            with store_errors(stage):
                (stage / member.name).parent.mkdir(parents=True, exist_ok=True)
            with store_errors(stage), (stage / member.name).open("xb") as file:
                file.writelines(reader.content())


def _read_manifest(source: Path, stage: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode((stage / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise _damaged(source, "it has no manifest that can be read") from error
    if manifest.format != FORMAT:
        raise StoreError(
            f"{source} is a backup of format {manifest.format}", remedy="Restore it with the Dockyard that wrote it."
        )
    for needed in (f"yard/{FILE_NAME}", f"yard/{PUBLIC_KEY}", AUDIT, IMAGES):
        if needed not in manifest.files:
            raise _damaged(source, f"it lacks {needed}")
    return manifest


def _check_log(source: Path, stage: Path, keys: Sequence[str], kept: Sequence[str]) -> Report:
    known = keys or keys_in((stage / "yard" / PUBLIC_KEY).read_text(encoding="utf-8"))
    try:
        with (stage / AUDIT).open("rb") as file:
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
    with (stage / AUDIT).open("rb") as file:
        for line in file:
            if line == b"\n":
                return
            row = leaves.fetchone()
            if row is None or bytes(row["leaf"]) + b"\n" != line:
                raise _damaged(source, "its store has another audit log than the one beside it")


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


@contextlib.contextmanager
def _staged(beside: Path) -> Iterator[Path]:
    """A folder on the same disk, gone at the end."""
    try:
        stage = Path(tempfile.mkdtemp(prefix=".yard-backup-", dir=beside))
    except OSError as error:
        raise as_store_error(error, beside) from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _damaged(source: Path, why: str) -> StoreDamagedError:
    return StoreDamagedError(f"{source} is not a whole backup: {why}", remedy="Restore another backup.")
