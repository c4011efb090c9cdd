"""Removing images that Dockyard loaded and that have lost their name to a newer one: nobody else would.

Only what is surely ours goes: a label that every build writes, no name or digest of a repository, and a history of
Dockyard's steps alone (an image that somebody made on top of ours has its labels too). Docker itself refuses when a
container has it. What an engine does not tell of an image (the containerd image store) leaves it alone. Podman keeps
all: it notes no time of a naming, so what was loaded a moment ago looks like what is years old.
Called by `engine.prune`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

from aiodocker.exceptions import DockerError

from dockyard.engines.docker.config import is_podman
from dockyard.engines.docker.session import CONFLICT, NOT_FOUND, Session
from dockyard.errors import EngineError
from dockyard.oci.image import Image
from dockyard.spec.labels import MODEL_NAME

_DELETE_DEADLINE = 300.0
_NO_NAME = {"<none>:<none>", "<none>@<none>"}
_OUR_STEP = "dockyard "


async def prune(session: Session, needed: Sequence[Image], older_than: float) -> int:
    """Remove the images that may go; the bytes of their layers, where the engine tells. EngineError when one fails."""
    if is_podman(await session.version()):
        return 0
    kept: set[str] = {reference for image in needed for reference in (image.image_id, image.digest)}
    async with session.asking("for images without a name"):
        listed = await session.client.images.list()
        containers = await session.client.containers.list(all=True)
    for container in containers:
        with suppress(KeyError):
            kept.add(str(container["ImageID"]))
    freed = 0
    failure: EngineError | None = None
    for entry in listed:
        reference = str(entry.get("Id", ""))
        if reference and reference not in kept and MODEL_NAME in (entry.get("Labels") or {}) and not _names(entry):
            try:
                freed += await _remove(session, reference, older_than)
            except EngineError as error:
                failure = error
    if failure is not None:
        raise failure
    return freed


def _names(answer: dict[str, Any]) -> set[str]:
    """The tags and digests by which an image is known."""
    return {*(answer.get("RepoTags") or ()), *(answer.get("RepoDigests") or ())} - _NO_NAME


async def _remove(session: Session, reference: str, older_than: float) -> int:
    """Remove an image that has no name now either, if it is ours and old; bytes freed."""
    async with session.asking("to remove an image", deadline=_DELETE_DEADLINE):
        try:
            found = await session.client.images.inspect(reference)
            steps = cast(list[dict[str, Any]], await session.client.images.history(reference))
            if _names(found) or not _is_old(found, older_than) or not _is_ours(steps):
                return 0
            answer = await session.client.images.delete(reference)
        except DockerError as error:
            if error.status in {CONFLICT, NOT_FOUND}:  # it is in use, or somebody was faster
                return 0
            raise
    return _bytes_of(answer, steps)


def _is_old(found: dict[str, Any], older_than: float) -> bool:
    """By when it was last named, as each load does. One that an archive alone named was so in the year 1."""
    with suppress(ValueError):
        named = datetime.fromisoformat(str((found.get("Metadata") or {}).get("LastTagTime")))
        return time.time() - named.timestamp() >= older_than
    return False


def _is_ours(steps: Sequence[dict[str, Any]]) -> bool:
    return all(str(step.get("CreatedBy", "")).startswith(_OUR_STEP) for step in steps)


def _bytes_of(answer: Sequence[dict[str, Any]], steps: Sequence[dict[str, Any]]) -> int:
    """Docker names the image and then each layer that nothing else has: the uppermost. Steps come newest first."""
    layers = sum("Deleted" in entry for entry in answer) - 1
    return sum(int(step.get("Size", 0)) for step in steps[: max(0, layers)])
