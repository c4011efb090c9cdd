"""Takes a project's locks to the newest versions within its ranges, and builds with them beside what is there.

Nothing that is there changes before `keep` is called: neither dockyard.lock nor a name in the store. Called by
`cli.update`, which runs the goldens in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dockyard.build.builder import Attach, Built, Options, build, draft_lock, name_together, resolve, source_of
from dockyard.build.changes import Cause, lock_changes
from dockyard.build.lock import Lock, write_locks
from dockyard.build.request import request_of
from dockyard.build.workshop import Workshop
from dockyard.oci.image import Image


@dataclass(frozen=True)
class Update:
    """What is newer for one platform."""

    workshop: Workshop
    before: Lock
    lock: Lock
    changes: tuple[Cause, ...]


def find_update(workshop: Workshop, before: Lock, options: Options) -> Update:
    """Resolve anew; LockError when that fails."""
    source = source_of(workshop, request_of(workshop.project))
    newest = replace(options, upgrade=True)
    lock = resolve(source, workshop, before, newest, draft_lock(source, workshop, before, newest))
    return Update(workshop, before, lock, tuple(lock_changes(before, lock)))


def build_updates(updates: Sequence[Update], options: Options, attach: Attach, made: list[Image]) -> tuple[Built, ...]:
    """Build each platform with its new lock. The images have no names yet: whoever fails to keep them drops `made`.

    An image is in `made` before it is in the store, so that none is left there whenever somebody interrupts.
    """
    part = replace(options, listed=False)

    def noted(workshop: Workshop, built: Built) -> None:
        made.append(built.image)
        attach(workshop, built)

    return tuple(build(update.workshop, replace(part, lock=update.lock), noted) for update in updates)


def drop(updates: Sequence[Update], made: Sequence[Image]) -> None:
    """Remove images that are not kept. What they were packed from stays in the caches, for the next attempt."""
    for image in made:
        updates[0].workshop.layout.forget(image)


def keep(updates: Sequence[Update], built: Sequence[Built], options: Options) -> None:
    """Give the new images their names, and write the new locks."""
    workshop = updates[0].workshop
    name_together(workshop, options, [one.image for one in built])
    locks = {update.workshop.platform: one.lock for update, one in zip(updates, built, strict=True)}
    write_locks(workshop.project.path, locks)
