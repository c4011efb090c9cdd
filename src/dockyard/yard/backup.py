"""A yard in one file: `dockyard backup`.

A tar of the store, the audit log as auditors read it, the policy, all public keys, the list of images that must be
there again, and a manifest with every file's hash; the images themselves too if asked, then a restore needs no network.
No private key is in it. `write_backup` reads beside the running yard and may run in another thread (`backing_up`); the
service signs a checkpoint first. `restoring` is the way back.
"""

from __future__ import annotations

import io
import shutil
import sqlite3
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from dockyard import __version__
from dockyard.errors import AuditError, StoreError
from dockyard.oci.bundle import write_bundle
from dockyard.oci.copying import attached_to
from dockyard.oci.digest import Digest
from dockyard.oci.files import PartialFile, store_errors, sync_folder
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.spec.resources import format_bytes
from dockyard.yard import backup_format as form
from dockyard.yard.backup_format import BackedUpImage, Manifest
from dockyard.yard.database import copy, files_of, reading, translated
from dockyard.yard.store import FILE_NAME

_ROOM_BESIDE = 16 << 20
_IN_USE = """
SELECT deployment, number, image_digest, image_name FROM revisions
WHERE state IN ('pending', 'active', 'kept') ORDER BY deployment, number
"""


def write_backup(home: Home, target: Path, *, with_images: bool = False) -> Manifest:
    """Write a backup of the yard in `home` to `target`, whole or not at all. StoreError when the disk refuses.

    `with_images`: those of the local store that deployments need, with all that is attached to them. StoreError also,
    before anything is written, when the disk of `target` has no room for that, and when no restore would take it.
    """
    store = home.yard / FILE_NAME
    if not store.exists():
        raise StoreError(f"there is no yard at {home.yard}", remedy="Name its home with DOCKYARD_HOME.")
    public = _public_files(home)
    _check_names(public)
    _check_room(target.absolute().parent, _size_of(store) + (_size_of_images(home, store) if with_images else 0))
    with form.staged(target.absolute().parent) as stage:
        (stage / "yard").mkdir()
        with reading(store) as connection:
            copy(connection, store, stage / "yard" / FILE_NAME)
        yard, images = _extract(stage)
        included = _bundle(home, stage, images) if with_images else frozenset()
        images = [msgspec.structs.replace(one, included=one.digest in included) for one in images]
        with store_errors(stage):
            (stage / form.IMAGES).write_bytes(msgspec.json.format(msgspec.json.encode(images)))
        for name, source in public.items():
            with store_errors(source):
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, stage / name)
        manifest = Manifest(form.FORMAT, __version__, yard, dict(form.items(stage)))
        _pack(stage, manifest, target.absolute())
        return manifest


def _public_files(home: Home) -> dict[str, Path]:
    """What may leave the host besides the store: the policy and public keys."""
    found = [*home.yard.glob("*.pub"), *home.yard.glob("keys/*.pub"), *home.keys.glob("*.pub")]
    found += home.keys.glob("trusted/*.pub")
    if home.policy.exists():
        found.append(home.policy)
    return {str(path.relative_to(home.root)): path for path in found}


def _check_names(names: Iterable[str]) -> None:
    for name in sorted(names):
        if not form.is_name(name):
            raise StoreError(
                f"{name[:200]!r} has a name that no restore would take",
                remedy="Rename it: letters, digits and . _ @ - are allowed.",
            )


def _check_room(folder: Path, size: int) -> None:
    """StoreError when the disk has no room for `size` bytes twice: as files, and as the one file made of them."""
    needed = 2 * size + _ROOM_BESIDE
    with store_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise StoreError(
            f"the backup needs {format_bytes(needed)} while it is made, "
            f"and the disk that holds {folder} has {format_bytes(free)} left",
            remedy="Free some space there, or back up without the images: `dockyard backup --no-images`.",
        )


def _size_of(store: Path) -> int:
    """The bytes of the store and of the log that is written out of it, at most."""
    return 2 * sum(file.stat().st_size for file in files_of(store) if file.exists())


def _size_of_images(home: Home, store: Path) -> int:
    with reading(store) as connection, translated(store):
        images = _in_use(connection)
    names, layout = _named(home, images)
    if layout is None:
        return 0
    entries = [layout.entry(name) for name in names]
    blobs = {blob for entry in entries for image in layout.members(entry) for blob in image.blobs}
    blobs |= {blob for entry in entries for artifact in attached_to(layout, entry) for blob in artifact.blobs}
    return sum({blob.digest: blob.size for blob in blobs}.values())


def _named(home: Home, images: Sequence[BackedUpImage]) -> tuple[Mapping[str, Digest], Layout | None]:
    """Those of the images that the local store has, by name; None when there is no local store."""
    if not home.images.exists():
        return {}, None
    layout, needed = Layout.open(home.images), {one.digest for one in images}
    return {each.name: each.image.digest for each in layout.images() if each.image.digest in needed}, layout


def _bundle(home: Home, stage: Path, images: Sequence[BackedUpImage]) -> frozenset[str]:
    """Write those images that the local store has into a bundle; their digests."""
    names, layout = _named(home, images)
    if names and layout is not None:
        write_bundle(names, layout, stage / form.BUNDLE, {})
    return frozenset(names.values())


def _in_use(connection: sqlite3.Connection) -> list[BackedUpImage]:
    return [BackedUpImage(*row) for row in connection.execute(_IN_USE)]


def _extract(stage: Path) -> tuple[str, list[BackedUpImage]]:
    """Write the audit log out of the copied store; the yard's id, and the images that its deployments need."""
    with reading(stage / "yard" / FILE_NAME) as connection, translated(stage):
        newest = connection.execute("SELECT size, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1").fetchone()
        if newest is None:
            raise AuditError("the audit log has no checkpoint yet", remedy="Start the yard once, then back it up.")
        leaves = connection.execute(
            "SELECT leaf FROM audit_entries WHERE number < ? ORDER BY number", (newest["size"],)
        )
        with store_errors(stage), (stage / form.AUDIT).open("wb") as file:
            file.writelines(bytes(row["leaf"]) + b"\n" for row in leaves)
            file.write(b"\n" + newest["note"].encode())
        images = _in_use(connection)
        yard = connection.execute("SELECT value FROM notes WHERE name = 'yard'").fetchone()
        return str(yard[0]), images


def _pack(stage: Path, manifest: Manifest, target: Path) -> None:
    data = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"))
    images = manifest.files.get(form.BUNDLE)
    if images is not None and images.size > form.IMAGES_LIMIT:
        raise _too_large(f"{format_bytes(images.size)} of images are", "Back up without them: `--no-images`.")
    if len(data) > form.MANIFEST_LIMIT or len(manifest.files) >= form.MEMBERS_LIMIT:
        raise _too_large(f"{len(manifest.files)} files are", "Move public keys that are not needed away.")
    with PartialFile(target.parent, f".{target.name}.partial-") as partial:
        with store_errors(target):
            partial.path.chmod(0o600)
            with (
                partial.path.open("wb") as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                tar.addfile(_member(form.MANIFEST, len(data)), io.BytesIO(data))
                for name, item in sorted(manifest.files.items()):
                    with (stage / name).open("rb") as content:
                        tar.addfile(_member(name, item.size), content)
        partial.commit(target)
    sync_folder(target.parent)


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


def _too_large(what: str, remedy: str) -> StoreError:
    return StoreError(f"{what} more than a backup may have: no restore would take it", remedy=remedy)
