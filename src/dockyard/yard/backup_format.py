"""What a backup is: a tar of named files with a manifest in front, and the limits that who writes and who reads heed.

`backup` writes one and `restoring` reads one back. Whatever one of them allows the other must, or a backup is found to
be useless on the day that it is needed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dockyard.oci.archive import LIMITS
from dockyard.oci.digest import digest_of_file
from dockyard.oci.files import as_store_error

MANIFEST = "manifest.json"
AUDIT = "audit.log"
IMAGES = "images.json"
BUNDLE = "images.tar"
FORMAT = 1
MANIFEST_LIMIT = 16 << 20
MEMBERS_LIMIT = 10_000
IMAGES_LIMIT = LIMITS.bytes
"""What a bundle may have that is read back. All other files are as large as the manifest says."""
_NAMES = re.compile(
    r"(yard/[A-Za-z0-9._-]{1,100}|(yard/)?keys/(trusted/)?[A-Za-z0-9._@-]{1,100}\.pub|[a-z]+\.(json|log|tar))"
)


class Item(msgspec.Struct, frozen=True):
    """A file of a backup."""

    size: int
    digest: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds: each file's size and digest."""

    format: int
    dockyard: str
    yard: str
    files: dict[str, Item]


class BackedUpImage(msgspec.Struct, frozen=True):
    """An image that a deployment needs; `included`: it is in the backup itself."""

    deployment: str
    revision: int
    digest: str
    name: str
    included: bool = False


def is_name(name: str) -> bool:
    """Whether a file of a backup may be called so."""
    return _NAMES.fullmatch(name) is not None and ".." not in name


def items(stage: Path) -> Iterator[tuple[str, Item]]:
    """Every file below a folder, by its name there."""
    for path in sorted(stage.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(stage)), Item(path.stat().st_size, digest_of_file(path))


@contextlib.contextmanager
def staged(beside: Path) -> Iterator[Path]:
    """A folder on the same disk, gone at the end."""
    try:
        stage = Path(tempfile.mkdtemp(prefix=".yard-backup-", dir=beside))
    except OSError as error:
        raise as_store_error(error, beside) from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
