"""Keeps the yard's store bounded: what nobody can need any more goes, now and then. `run` starts it.

A revision that has the traffic, is kept for a rollback, has replicas, or is part of a rollout under way is never taken,
however old; nor is an entry of the audit log. Images go once no revision that is left needs them: first their names,
then those of their blobs that no other image has, then what the engines keep of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from dockyard.errors import DockyardError
from dockyard.oci.copying import attached_to
from dockyard.oci.digest import Digest
from dockyard.oci.image import Descriptor, Image
from dockyard.oci.layout import REF_NAME, SWEEP_AGE, Layout
from dockyard.yard.naming import PREFIX, RECEIVED, image_name
from dockyard.yard.store import Store

EVERY_S = 600.0
KEPT_IMAGES = 20
"""So many revisions of a deployment keep their images, whatever became of them; going back to others needs a pull."""
_DAY = 86_400.0
_log = logging.getLogger(__name__)

# What may go of one deployment: out of service, not among the newest, without replicas and no part of a rollout.
_OLD_REVISIONS = """
SELECT number FROM revisions AS r
WHERE deployment = :name AND state IN ('retired', 'failed')
  AND number NOT IN (SELECT number FROM revisions WHERE deployment = :name ORDER BY number DESC LIMIT :kept)
  AND NOT EXISTS (SELECT 1 FROM deployments AS d WHERE d.name = r.deployment AND d.active = r.number)
  AND NOT EXISTS (SELECT 1 FROM replicas AS p WHERE p.deployment = r.deployment AND p.revision = r.number)
  AND NOT EXISTS (
      SELECT 1 FROM rollouts AS o
      WHERE o.deployment = r.deployment AND o.ended IS NULL AND r.number IN (o.source, o.target))
"""
_OLD_ROLLOUTS = """
DELETE FROM rollouts WHERE deployment = :name AND ended IS NOT NULL AND id NOT IN (
    SELECT id FROM rollouts WHERE deployment = :name AND ended IS NOT NULL ORDER BY id DESC LIMIT :kept)
"""


@dataclass(frozen=True)
class Retention:
    """What is kept: the newest revisions of each deployment (and twice as many rollouts with their receipts); deleted
    deployments, expired and revoked tokens, and images that were sent and not deployed, for so many seconds."""

    revisions: int = 50
    deleted_s: float = 30 * _DAY
    tokens_s: float = 30 * _DAY
    received_s: float = _DAY


Free = Callable[[Sequence[Image]], Awaitable[bool]]
"""Has the engines free what they keep of other images than these; False when it is to be tried again."""


class Pruning:
    """Prunes one yard's store, its images, and by `free` the engines' copies of them."""

    def __init__(self, store: Store, images: Layout, retention: Retention, free: Free | None = None) -> None:
        self._store = store
        self._database = store.database
        self._images = images
        self._retention = retention
        self._free = free
        self._engines_due = 0.0  # by the monotonic clock

    async def run(self) -> None:
        """Prune every ten minutes, until cancelled; what fails is tried again."""
        while True:
            for step in (self.once, self.engines):  # each by itself: a full disk may refuse the first
                try:
                    await step()
                except (DockyardError, OSError) as error:  # a blob may go while it is looked at
                    _log.error("what is old could not be removed: %s", error)
            await asyncio.sleep(EVERY_S)

    async def once(self) -> None:
        """Prune rows, then images that were needed by nothing else."""
        self.rows()
        # The names first, then the revisions: a name that is given meanwhile is not among those that are looked at.
        names = await asyncio.to_thread(self._names)
        needed = self._needed()
        unused = {name: entry for name, entry in names.items() if name not in needed}
        if unused:
            self._engines_due = 0.0
            await asyncio.to_thread(self._let_go, unused)

    async def engines(self) -> None:
        """Have the engines let go, when images were, at the first call, and each time that what was young is old."""
        if self._free is None or time.monotonic() < self._engines_due:
            return
        kept = await asyncio.to_thread(self._images.images)
        if await self._free([each.image for each in kept]):
            self._engines_due = time.monotonic() + SWEEP_AGE

    def rows(self) -> None:
        """Remove rows of deployments, revisions, rollouts and tokens that are past their time, all at once."""
        now = self._store.now()
        with self._store.together():
            for row in self._database.all("SELECT name FROM deployments"):
                self._prune_deployment(row["name"])
            gone = now - self._retention.deleted_s
            for row in self._database.all("SELECT name FROM deployments WHERE forgotten < ?", (gone,)):
                self._remove_deployment(row["name"])
            past = now - self._retention.tokens_s
            self._database.execute("DELETE FROM tokens WHERE revoked < ? OR expires < ?", (past, past))

    def _prune_deployment(self, name: str) -> None:
        kept = self._retention.revisions
        for row in self._database.all(_OLD_REVISIONS, {"name": name, "kept": kept}):
            which = (name, row["number"])
            self._database.execute("DELETE FROM rollouts WHERE deployment = ? AND target = ?", which)
            self._database.execute("UPDATE rollouts SET source = NULL WHERE deployment = ? AND source = ?", which)
            self._database.execute("DELETE FROM revisions WHERE deployment = ? AND number = ?", which)
        self._database.execute(_OLD_ROLLOUTS, {"name": name, "kept": 2 * kept})

    def _remove_deployment(self, name: str) -> None:
        """Nothing of it is in use: it had no replicas when it was forgotten."""
        self._database.execute("DELETE FROM rollouts WHERE deployment = ?", (name,))
        self._database.execute("DELETE FROM revisions WHERE deployment = ?", (name,))
        self._database.execute("DELETE FROM deployments WHERE name = ?", (name,))

    def _needed(self) -> set[str]:
        """The names that keep the images of revisions: of those in service, and of the newest."""
        needed = set()
        for each in self._store.snapshot():
            name = each.deployment.name
            newest = self._store.revisions(name, limit=KEPT_IMAGES)
            needed |= {image_name(name, number) for number in (*each.revisions, *(one.number for one in newest))}
        return needed

    def _names(self) -> dict[str, Descriptor]:
        """The yard's names in the image store, of images that are old enough for their blobs to be swept."""
        found = {}
        for entry in self._images.entries():
            name = entry.annotations.get(REF_NAME, "")
            young = self._retention.received_s if name.startswith(RECEIVED) else SWEEP_AGE
            if not name.startswith(PREFIX) or not self._images.blobs.has(entry.digest):
                continue
            if self._images.age(entry.digest) > max(young, SWEEP_AGE):
                found[name] = entry
        return found

    def _let_go(self, unused: dict[str, Descriptor]) -> None:
        """Forget these names, and remove what only their images needed."""
        blobs: set[Digest] = set()
        for name, entry in unused.items():
            blobs.add(entry.digest)
            blobs |= {blob.digest for image in self._images.members(entry) for blob in image.blobs}
            blobs |= {blob.digest for artifact in attached_to(self._images, entry) for blob in artifact.blobs}
            self._images.remove(name)
        freed = self._images.sweep(only=blobs)
        _log.info("%d images that no revision needs are let go, %d bytes are free again", len(unused), freed)
