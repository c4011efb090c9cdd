"""`dockyard build --watch`: a process that stays, and builds whenever a file of the project has changed.

Each build is a whole one and makes what `dockyard build` would make then; it is fast because the process has started,
and remembers what an edit does not touch (`build.memory`). Called by `cli.build`.
"""

from __future__ import annotations

import gc
import json
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from dockyard.build.builder import Built
from dockyard.build.content import files_to_watch, folders_to_watch
from dockyard.build.lock import FILE_NAME as LOCK_NAME
from dockyard.build.workshop import Workshop
from dockyard.cli import explain, places
from dockyard.cli.build import Bench, Order, described, summary
from dockyard.dev.watcher import Watched, Watcher
from dockyard.errors import DockyardError, ProjectError
from dockyard.oci.files import as_store_error
from dockyard.oci.image import Image
from dockyard.spec.load import FILE_NAME as PROJECT_NAME
from dockyard.spec.load import load_project
from dockyard.spec.project import Project

# A short build whose files change meanwhile is given up for one of all changes, unless that would go on and on.
_MORE_S, _LONGEST_S = 0.5, 1.0
_KEPT = 10  # images of earlier builds that stay in the store, for who has just been told of them
_SHOWN = 3


def watch(order: Order, *, as_json: bool) -> None:
    """Build, and build again after each change, until Ctrl-C; what fails is told, and the next change tries again."""
    folder = order.folder.absolute()
    desk = _Desk(folder, load_project(folder).project)
    watcher = Watcher(Watched(desk.files, desk.folders, rules=frozenset({folder / PROJECT_NAME})))
    with Session(order, Bench(places.store(), places.home().cache), as_json=as_json) as session:
        try:
            changed: Sequence[Path] = ()
            while True:
                told = session.build([_relative(path, folder) for path in changed], watcher)
                session.rest()
                changed = watcher.wait() if told else sorted({*changed, *watcher.wait(_MORE_S)})
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
        finally:
            watcher.close()


class _OutOfDateError(DockyardError):
    """What a build has made is not of the files as they are now."""


@dataclass
class _Desk:
    """The project's files at this moment, by what dockyard.toml says now, or said last when it was right."""

    folder: Path
    manifest: Project

    def files(self) -> list[Path]:
        with suppress(ProjectError):
            self.manifest = load_project(self.folder).project
        return files_to_watch(self.folder, self.manifest)

    def folders(self) -> list[Path]:
        return folders_to_watch(self.folder, self.manifest)


@dataclass
class Session:
    """The builds of one process, and what it says of each."""

    order: Order
    bench: Bench
    as_json: bool
    _images: deque[Image] = field(default_factory=deque)
    _told: bool = False
    _untold_since: float | None = None
    _frozen: bool = False

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        gc.unfreeze()
        for memory in self.bench.memories.values():
            memory.close()

    def build(self, changed: Sequence[str], watcher: Watcher) -> bool:
        """Build once and tell what came of it; nothing (False) when there is another change already.

        Garbage waits until `rest`: collecting it takes longer than some parts of a build.
        """
        if self._frozen:
            gc.disable()
        try:
            return self._build(changed, watcher)
        finally:
            gc.enable()

    def _build(self, changed: Sequence[str], watcher: Watcher) -> bool:
        self._untold_since = since = self._untold_since or time.monotonic()

        def attach(workshop: Workshop, built: Built) -> None:
            self.order.attach(workshop, built)
            if time.monotonic() < since + _LONGEST_S and watcher.has_more():
                raise _OutOfDateError("files changed while an image was made of them")

        try:
            built = replace(self.order, attach=attach).build(self.bench)
            if any(one.lock_changed for one in built):
                watcher.written(self.order.folder.absolute() / LOCK_NAME)
            self.order.deliver(built[0].name)
        except (DockyardError, OSError) as error:
            if isinstance(error, _OutOfDateError) or watcher.has_more():
                return False
            self._fail(_explained(error), changed)
        else:
            self._tell(built, changed)
            self._remember(built)
            # What was upgraded once is not to be upgraded by every edit.
            self.order = replace(self.order, options=replace(self.order.options, upgrade=False))
        self._untold_since = None
        return True

    def rest(self) -> None:
        """While nothing is to be done: have the base's Python wait for the next edit, forget images of old ones, and
        collect what garbage there is, which a build then need not.
        """
        with suppress(DockyardError):  # the next build says what is wrong
            for memory in self.bench.memories.values():
                memory.spare.renew()
                memory.tidy()
            while len(self._images) > _KEPT:
                self.bench.store.forget(self._images.popleft())
        gc.collect()
        if not self._frozen:  # what the first build has left stays: modules, and what is remembered
            gc.freeze()
            self._frozen = True

    def _remember(self, built: Sequence[Built]) -> None:
        new = [one.image for one in built]
        self._images = deque([*(image for image in self._images if image not in new), *new])

    def _tell(self, built: Sequence[Built], changed: Sequence[str]) -> None:
        if self.as_json:
            for one in built:
                click.echo(json.dumps({**described(one), "changed": changed}))
            return
        for one in built:
            if not self._told:
                summary(one)
            elif one.lock_changed:
                click.echo("dockyard.lock has changed: commit it.", err=True)
            place = f"  {one.image.config.platform}" if len(built) > 1 else ""
            click.echo(
                f"{_clock()}  {one.image.digest}  {one.name}{place}  {_seconds(one)}  {_named(changed)}".rstrip()
            )
        self._told = True

    def _fail(self, error: DockyardError, changed: Sequence[str]) -> None:
        if self.as_json:
            told = {"error": error.what, "detail": error.detail, "remedy": error.remedy, "changed": changed}
            click.echo(json.dumps(told))
        else:
            explain(error)
            click.secho(f"{_clock()}  waiting for the next change", dim=True, err=True)


def _explained(error: DockyardError | OSError) -> DockyardError:
    if isinstance(error, DockyardError):
        return error
    return as_store_error(error, Path(str(error.filename or "a file or socket")))


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _seconds(built: Built) -> str:
    return f"{built.seconds * 1000:.0f} ms" if built.seconds < 1 else f"{built.seconds:.1f} s"


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _named(changed: Sequence[str]) -> str:
    more = len(changed) - _SHOWN
    return ", ".join(changed[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
