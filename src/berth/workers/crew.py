"""The worker processes of one model: started, replaced when they end or grow too large, ended with the server.

A process that ends before it has proved anything delays the next one, longer each time. One whose memory grows past the
limit is replaced once its successor has loaded. pool.py gives them work, and hears of each through `Owner`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from berth.errors import ModelError
from berth.model import Model
from berth.process import Usage, usage
from berth.workers.process import Description, LoadFailure
from berth.workers.template import Template
from berth.workers.worker import Owner, State, Worker

MIB = 1024 * 1024
TICK_S = 1.0
BACK_OFF_S = 0.05  # after the first process that proved nothing; doubled for each further one
BACK_OFF_LIMIT_S = 30.0
HOPELESS = 3  # so many in a row, and nobody is kept waiting for a worker
GROWTH = 1.25  # a watermark below what a fresh worker needs would replace workers for ever
REPLACE_PAUSE_S = 30.0  # after a successor that did not come up
KILL_S = 5.0

Event = Callable[..., None]  # Log.event: level, message, fields


class PoolSettings(msgspec.Struct, frozen=True):
    """How many workers, how long one batch may take (seconds), and how much memory of its own a worker may have.

    0 means without limit. `arena_bytes` is for each direction and worker; only what is used takes memory.
    """

    workers: int
    batch_timeout: float = 60.0
    max_memory: int = 0
    arena_bytes: int = 64 * MIB


class Crew:
    """The workers of one pool; `idle` are those that have nothing to do, and `counts` what became of all.

    The owner hears of the workers first, and passes on to `loaded`, `load_failed` and `left` what it hears.
    """

    def __init__(
        self, template: Template, load: Callable[[], Model], settings: PoolSettings, event: Event, owner: Owner
    ) -> None:
        self.counts: Counter[str] = Counter()  # started, ended, replaced; the pool's are among them
        self.workers: list[Worker] = []
        self.idle: list[Worker] = []
        self.closing = False
        self._template = template
        self._load = load
        self._settings = settings
        self._event = event
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._tick_s = min(TICK_S, settings.batch_timeout / 4 or TICK_S)
        self._failures = 0  # processes in a row that ended before they had proved anything
        self._last_failure = ""
        self._restart: asyncio.TimerHandle | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._next_replacement = 0.0
        self._started: asyncio.Future[Description] | None = None
        self._empty = asyncio.Event()

    # How it is.

    @property
    def alive(self) -> bool:
        """Whether it can still start workers; when not, only a new server helps."""
        return self._template.alive and not self.closing

    @property
    def why_dead(self) -> str:
        """Why not; empty when it is."""
        if self.closing:
            return "the workers were stopped"
        return "" if self._template.alive else "the process that forks the workers is gone"

    @property
    def ready(self) -> bool:
        """Whether a worker has loaded the model and lives."""
        return self.alive and any(worker.serving for worker in self.workers)

    @property
    def why_not_ready(self) -> str:
        """Why not; empty when it is."""
        if self.ready:
            return ""
        why = self.why_dead or "no worker process has loaded the model"
        return f"{why}; the last one {self._last_failure}" if self._last_failure else why

    @property
    def hopeless(self) -> bool:
        """Whether waiting for a worker makes no sense."""
        return not self.alive or (self._failures >= HOPELESS and not self.ready)

    def facts(self) -> Iterator[tuple[int, int, Usage]]:
        """Of each worker: its number, how many requests it runs, and what its process uses."""
        for worker in self.workers:
            used = usage(worker.pid) if worker.serving else None
            if used is not None:
                yield worker.number, worker.in_flight, used

    # Life.

    async def start(self) -> Description:
        """Start all workers; what the first says of its model. Raises what `load` raises in any of them."""
        self._started = self._loop.create_future()
        for _ in range(self._settings.workers):
            self._spawn()
        try:
            description = await self._started
        finally:
            self._started = None
        self._ticking = self._loop.call_later(self._tick_s, self._tick)
        return description

    def stop(self) -> None:
        """Start nobody any more."""
        self.closing = True
        for timer in (self._restart, self._ticking):
            if timer is not None:
                timer.cancel()

    async def close(self, patience: float) -> None:
        """End all workers, after `stop`; those that are busy have so many seconds left."""
        for worker in list(self.workers):
            worker.retire()
            if worker.state is State.LOADING:
                worker.end()
        self.idle.clear()
        if not await self._wait_until_empty(patience):
            for worker in list(self.workers):
                worker.end("was still busy when the server stopped")
            await self._wait_until_empty(KILL_S)

    async def _wait_until_empty(self, patience: float) -> bool:
        if not self.workers:
            return True
        self._empty.clear()
        try:
            async with asyncio.timeout(patience):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    # Workers that come and go.

    def _spawn(self, replaces: Worker | None = None) -> None:
        worker = Worker(self._template, self._owner, self._settings.arena_bytes)
        worker.replaces = replaces
        self.workers.append(worker)
        self.counts["started"] += 1
        worker.load(self._load)

    def loaded(self, worker: Worker, description: Description) -> None:
        """A worker has loaded the model."""
        worker.memory_limit = max(self._settings.max_memory, int(worker.own_memory() * GROWTH))
        self.idle.append(worker)
        if worker.replaces is not None:
            self._replace(worker.replaces)
            worker.replaces = None
        if self._started is not None:
            if all(other.serving for other in self.workers) and not self._started.done():
                self._started.set_result(description)
        elif self._last_failure:
            self._last_failure = ""
            self._event("info", "worker ready", worker=worker.name)

    def _replace(self, old: Worker) -> None:
        if old in self.idle:
            self.idle.remove(old)
        old.retire()
        self.counts["replaced"] += 1
        self._event("info", "worker replaced", worker=old.name, reason="its memory grew past the limit")

    def load_failed(self, worker: Worker, failed: LoadFailure) -> None:
        """A worker's load raised; its end follows."""
        self._last_failure = f"could not load it: {failed.text}"
        if self._started is not None:
            if not self._started.done():
                self._started.set_exception(_raised(failed))
            return
        self._event("error", "worker could not load the model", worker=worker.name, traceback=failed.trace)

    def answered(self, worker: Worker) -> None:
        """A worker has answered."""
        if worker.answered == 1:
            self._failures = 0

    def left(self, worker: Worker, reason: str, *, busy: bool) -> bool:
        """A worker's process is gone; whether that was in the life of the pool, and not in its start."""
        self.workers.remove(worker)
        if worker in self.idle:
            self.idle.remove(worker)
        if not self.workers:
            self._empty.set()
        self.counts["ended"] += 1
        if self._started is not None:
            if not self._started.done():
                self._started.set_exception(ModelError(f"a worker process {reason} while it loaded the model"))
            return False
        if not (self.closing or (worker.retiring and not busy)):
            self._count_failure(worker, reason)
        return True

    def _count_failure(self, worker: Worker, reason: str) -> None:
        self._failures = 0 if worker.proven else self._failures + 1
        if worker.proven or not self._last_failure:
            self._last_failure = reason
        if worker.replaces is not None:
            self._next_replacement = self._loop.time() + REPLACE_PAUSE_S
        self._event("error", "worker ended", worker=worker.name, reason=reason)

    def fill(self) -> None:
        """Start what is missing, at once or after a pause."""
        if self._missing() and self._restart is None and self.alive and self._started is None:
            pause = min(BACK_OFF_S * 2 ** (self._failures - 1), BACK_OFF_LIMIT_S) if self._failures else 0.0
            self._restart = self._loop.call_later(pause, self._start_missing)

    def _start_missing(self) -> None:
        self._restart = None
        try:
            for _ in range(self._missing()):
                self._spawn()
        except OSError as error:  # out of descriptors or memory
            self._failures += 1
            self._event("error", "worker could not be started", reason=str(error))
            self.fill()

    def _missing(self) -> int:
        """How many workers there are too few; a successor counts once its predecessor is gone."""
        staying = [worker for worker in self.workers if not worker.retiring and worker.replaces not in self.workers]
        return self._settings.workers - len(staying)

    # Time and memory.

    def _tick(self) -> None:
        """Now and then: kill what hangs, trim arenas, replace a worker that has grown too large, one at a time."""
        self._ticking = self._loop.call_later(self._tick_s, self._tick)
        for worker in self.workers:
            worker.check_limit()
            worker.give_back()
        replacing = any(worker.replaces is not None for worker in self.workers)
        if not self._settings.max_memory or replacing or self._loop.time() < self._next_replacement:
            return
        for worker in self.workers:
            if worker.serving and not worker.retiring and worker.own_memory() > worker.memory_limit:
                self._spawn(replaces=worker)
                return


def _raised(failed: LoadFailure) -> Exception:
    """The exception that `load` raised, with the worker's traceback as its cause."""
    error = failed.error or ModelError(f"the model did not load: {failed.text}")
    error.__cause__ = _Remote(failed.trace)
    return error


class _Remote(Exception):  # noqa: N818  never raised: it only carries a traceback's text
    def __str__(self) -> str:
        return f"in the worker process:\n{self.args[0]}"
