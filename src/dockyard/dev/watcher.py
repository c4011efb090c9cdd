"""Waits until files of a project have changed and lie still, within milliseconds where the kernel tells of it.

The kernel (inotify) only says when to look; what has changed is found by looking, as `watch` does. Where it says
nothing, which is so of disks of other machines, a look now and then finds it. Called by `cli.watching`.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dockyard.dev.inotify import Inotify
from dockyard.dev.watch import PAUSE_S, Look, State, changes, state_of

# Saves that follow one another this fast are one change; so are the steps of one save when a file is gone meanwhile.
_QUIET_S = 0.003
_PATIENCE_S = 0.15
_LONGEST_S = 1.0
# A look when nothing is told: seldom, and at most a hundredth of a core; without inotify a twentieth.
_LOOK_S, _LOOK_SHARE, _SHARE = 5.0, 100, 20
_TICK_NS = 20_000_000  # two changes of a file within one tick of the file system's clock look like one


@dataclass(frozen=True)
class Watched:
    """What to watch at this moment: files, and the folders in which they are or may come to be."""

    files: Look
    folders: Look


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

    def wait(self) -> list[Path]:
        """Wait until files have changed since the last time (or since the beginning), and say which."""
        while True:
            touched, told = self._touched()
            before, taken = self._state, self._taken
            self._take()
            if not told:
                self._let_settle(before)
            found = self._foreign({*changes(before, self._state), *self._retouched(touched, taken)}, self._state)
            if before.keys() != self._state.keys():
                self._watch_folders()
            if found:
                return sorted(found)
            if told:  # of what is not the project's: no more than a share of the time goes into looking for nothing
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

    def _touched(self) -> tuple[set[Path], bool]:
        """Wait until there is reason to look: what was touched, and whether something was told at all."""
        if self._inotify is None:
            time.sleep(max(PAUSE_S, _SHARE * self._cost))
            return set(), False
        next_look = time.monotonic() + max(_LOOK_S, _LOOK_SHARE * self._cost)
        while self._ready(next_look - time.monotonic()):
            touched, folders = self._gathered(self._inotify)
            if touched or folders:
                return set(touched), True
        return set(), False

    def _gathered(self, inotify: Inotify) -> tuple[Mapping[Path, bool], bool]:
        """What is told until it is quiet: files, whether each is whole, and whether folders came or went."""
        touched: dict[Path, bool] = {}
        folders = False
        give_up = time.monotonic() + _LONGEST_S
        while True:
            events, complete = inotify.read()
            known = [event for event in events if event.path in self._state or not event.path.name.startswith(".")]
            touched |= {event.path: event.whole for event in known if not event.is_folder}
            folders = folders or not complete or any(event.is_folder for event in known)
            quiet = _QUIET_S if all(touched.values()) and not folders else _PATIENCE_S
            if not (touched or folders) or time.monotonic() > give_up or not self._ready(quiet):
                break
        if folders:
            self._watch_folders()
        return touched, folders

    def _ready(self, seconds: float) -> bool:
        if self._inotify is None:
            return False
        waiting = select.poll()
        waiting.register(self._inotify.fileno(), select.POLLIN)
        return bool(waiting.poll(max(seconds, 0.0) * 1000))
