"""Waits until files of a project have changed and lie still, within milliseconds where the kernel tells of it.

The kernel (inotify) only says when and where to look; what has changed is found by looking, as `watch` does. A save of
a known file is told at once: who builds of it asks at the end whether more has come, which is the longer wait anyway.
Where the kernel says nothing, which is so of disks of other machines, a look now and then finds it. Called by
`cli.watching`.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dockyard.dev.inotify import Inotify
from dockyard.dev.watch import PAUSE_S, Look, State, changes, state_of

# Saves of new files that follow one another this fast are one change; so are the steps of one save when a file is gone
# meanwhile.
_QUIET_S = 0.003
_PATIENCE_S = 0.15
_LONGEST_S = 1.0
# A look when nothing is told: seldom, and at most a hundredth of a core; without inotify a twentieth.
_LOOK_S, _LOOK_SHARE, _SHARE = 5.0, 100, 20
_TICK_NS = 20_000_000  # two changes of a file within one tick of the file system's clock look like one


@dataclass(frozen=True)
class Watched:
    """What to watch at this moment: files, and the folders in which they are or may come to be. What `rules` have in
    them decides which files these are.
    """

    files: Look
    folders: Look
    rules: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class _Told:
    """What the kernel has told: the files that were touched, those of them that have other bytes perhaps, and whether
    there is more to look at than these files.
    """

    touched: frozenset[Path] = frozenset()
    written: frozenset[Path] = frozenset()
    more: bool = False


class Watcher:
    """Watches from its making on. OSError when the project's folder cannot be read."""

    def __init__(self, watched: Watched, notifier: Callable[[], Inotify] = Inotify) -> None:
        self._watched = watched
        self._inotify: Inotify | None = None
        with suppress(OSError):
            self._inotify = notifier()
        self._own: dict[Path, tuple[int, ...] | None] = {}
        self._cost = 0.0
        self._state: State = {}
        self._watch_folders()
        self._take()

    def wait(self, patience_s: float = math.inf) -> list[Path]:
        """Wait until files have changed since the last time (or since the beginning), and say which; after
        `patience_s`, none.
        """
        give_up = time.monotonic() + patience_s
        while True:
            told = self._told(give_up)
            before, taken = self._state, self._taken
            if told is None or not self._looked_at(told):
                self._take()
            if told is None:
                self._let_settle(before)
                told = _Told()
            found = self._foreign({*changes(before, self._state), *self._retouched(told.written, taken)}, self._state)
            if before.keys() != self._state.keys():
                self._watch_folders()
            if found or time.monotonic() >= give_up:
                return sorted(found)
            if told.touched or told.more:
                # Of what is not the project's: no more than a share of the time goes into looking for nothing.
                time.sleep(_SHARE * self._cost)

    def written(self, path: Path) -> None:
        """Say that a file was written by who waits here, so that this is no change."""
        self._own[path] = state_of([path]).get(path)

    def has_more(self) -> bool:
        """Whether files have changed since `wait` returned, as far as the kernel tells; the next `wait` says which."""
        if not self._ready(0.0):
            return False
        with suppress(OSError):
            return bool(self._foreign(changes(self._state, now := state_of(self._watched.files())), now))
        return True

    def close(self) -> None:
        """Watch no more."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _take(self) -> None:
        started = time.monotonic()
        self._taken = time.time_ns()
        with suppress(OSError):  # a folder went while it was being read: the next look tells more
            self._state = state_of(self._watched.files())
        self._cost = time.monotonic() - started

    def _looked_at(self, told: _Told) -> bool:
        """Look at the files that were touched alone, if there can be nothing else: they were known, and are there."""
        if told.more or not told.touched <= self._state.keys() or told.touched & self._watched.rules:
            return False
        taken = time.time_ns()
        now = state_of(told.touched)
        if now.keys() != told.touched:
            return False
        self._taken, self._state = taken, {**self._state, **now}
        return True

    def _let_settle(self, before: State) -> None:
        """Look until two looks see the same, since a file of which nothing was told may be half written."""
        while self._state != before:
            before = self._state
            time.sleep(PAUSE_S)
            self._take()

    def _watch_folders(self) -> None:
        """Watch what there is; without inotify from here on, if there is too much."""
        if self._inotify is None:
            return
        try:
            for folder in self._watched.folders():
                self._inotify.watch(folder)
        except FileNotFoundError:
            return  # went while it was being read
        except OSError:
            self.close()

    def _foreign(self, paths: Iterable[Path], now: State) -> set[Path]:
        """Those that are not as who waits here has written them."""
        return {path for path in paths if path not in self._own or self._own[path] != now.get(path)}

    def _retouched(self, touched: Iterable[Path], taken: int) -> list[Path]:
        """Files that were touched, and look as before only because their clock has not ticked in between."""
        return [path for path in touched if path in self._state and self._state[path][3] >= taken - _TICK_NS]

    def _told(self, give_up: float) -> _Told | None:
        """Wait until there is reason to look, which is so at `give_up` too; None when nothing was told."""
        if self._inotify is None:
            time.sleep(min(max(PAUSE_S, _SHARE * self._cost), max(give_up - time.monotonic(), 0.0)))
            return None
        next_look = min(give_up, time.monotonic() + max(_LOOK_S, _LOOK_SHARE * self._cost))
        while self._ready(next_look - time.monotonic()):
            told = self._gathered(self._inotify)
            if told.touched or told.more:
                return told
        return None

    def _gathered(self, inotify: Inotify) -> _Told:
        """What is told until it is quiet."""
        whole: dict[Path, bool] = {}
        written: set[Path] = set()
        folders = False
        give_up = time.monotonic() + _LONGEST_S
        while True:
            events, complete = inotify.read()
            known = [event for event in events if event.path in self._state or not event.path.name.startswith(".")]
            files = [event for event in known if not event.is_folder]
            for event in files:
                whole[event.path] = whole.get(event.path, True) if event.attributes else event.whole
            written.update(event.path for event in files if not event.attributes)
            # What was not there before, and has gone again, is nothing.
            whole = {path: is_whole for path, is_whole in whole.items() if is_whole or self._matters(path)}
            folders = folders or not complete or any(event.is_folder for event in known)
            if not (whole or folders) or time.monotonic() > give_up or not self._ready(self._pause(whole, folders)):
                break
        if folders:
            self._watch_folders()
        return _Told(frozenset(whole), frozenset(written & whole.keys()), folders)

    def _matters(self, path: Path) -> bool:
        return path in self._state or os.path.lexists(path)

    def _pause(self, whole: Mapping[Path, bool], folders: bool) -> float:
        """How long to wait for more (s): not at all after a save of files that were there before."""
        if folders or not all(whole.values()):
            return _PATIENCE_S
        return 0.0 if whole.keys() <= self._state.keys() else _QUIET_S

    def _ready(self, seconds: float) -> bool:
        if self._inotify is None:
            return False
        waiting = select.poll()
        waiting.register(self._inotify.fileno(), select.POLLIN)
        return bool(waiting.poll(max(seconds, 0.0) * 1000))
