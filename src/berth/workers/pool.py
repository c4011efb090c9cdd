"""The workers of one model, in the executor's place: takes batches, answers each request exactly once.

A worker that ends, or hangs, is replaced. The requests that it had are run again, each alone: so the innocent are
answered, and one that ends a second worker fails and is kept out from then on. A worker whose memory grows past the
limit is replaced once its successor has loaded. The batcher submits; all methods are called on the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from berth.calls import Question, Told
from berth.errors import ModelError
from berth.executor import Done, Failed, Group, Outcome, Sink
from berth.model import Model
from berth.process import Usage, usage
from berth.workers.batches import Piece, Stream, Submission, Wanted, failure
from berth.workers.process import Description, LoadFailure
from berth.workers.quarantine import ENOUGH, Quarantine
from berth.workers.template import Template
from berth.workers.worker import State, Worker

MIB = 1024 * 1024
COLLECT_S = 0.001
TICK_S = 1.0
BACK_OFF_S = 0.05  # after the first process that proved nothing; doubled for each further one
BACK_OFF_LIMIT_S = 30.0
HOPELESS = 3  # so many in a row, and nobody is kept waiting for a worker
GROWTH = 1.25  # a watermark below what a fresh worker needs would replace workers for ever
REPLACE_PAUSE_S = 30.0  # after a successor that did not come up
KILL_S = 5.0

Event = Callable[..., None]  # Log.event: level, message, fields
Ask = Callable[[Question, float, Callable[[Told], None]], None]  # Chain.ask: question, deadline, who is told


@dataclass(frozen=True)
class PoolSettings:
    """How many workers, how long one batch may take (seconds), and how much memory of its own a worker may have.

    0 means without limit. `arena_bytes` is for each direction and worker; only what is used takes memory.
    """

    workers: int
    batch_timeout: float = 60.0
    max_memory: int = 0
    arena_bytes: int = 64 * MIB


class WorkerPool:
    """Runs batches in worker processes, at most `capacity` at once."""

    def __init__(
        self,
        template: Template,
        load: Callable[[], Model],
        settings: PoolSettings,
        event: Event,
        ask: Ask | None = None,
    ) -> None:
        self.capacity = settings.workers
        self.counts: Counter[str] = Counter()  # started, ended, replaced, requeued, quarantined
        self._template = template
        self._load = load
        self._settings = settings
        self._event = event
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._tick_s = min(TICK_S, settings.batch_timeout / 4 or TICK_S)
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._waiting: deque[Piece | Stream] = deque()
        self._quarantine = Quarantine()
        self._failures = 0  # processes in a row that ended before they had proved anything
        self._last_failure = ""
        self._restart: asyncio.TimerHandle | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._next_replacement = 0.0
        self._collected = 0.0
        self._closing = False
        self._started: asyncio.Future[Description] | None = None
        self._empty = asyncio.Event()

    # How it is.

    @property
    def alive(self) -> bool:
        """Whether it can still start workers; when not, only a new server helps."""
        return self._template.alive and not self._closing

    @property
    def why_dead(self) -> str:
        """Why not; empty when it is."""
        if self._closing:
            return "the workers were stopped"
        return "" if self._template.alive else "the process that forks the workers is gone"

    @property
    def ready(self) -> bool:
        """Whether a worker has loaded the model and lives."""
        return self.alive and any(worker.serving for worker in self._workers)

    @property
    def why_not_ready(self) -> str:
        """Why not; empty when it is."""
        if self.ready:
            return ""
        why = self.why_dead or "no worker process has loaded the model"
        return f"{why}; the last one {self._last_failure}" if self._last_failure else why

    def facts(self) -> Iterator[tuple[int, int, Usage]]:
        """Of each worker: its number, how many requests it runs, and what its process uses."""
        for worker in self._workers:
            used = usage(worker.pid) if worker.serving else None
            if used is not None:
                yield worker.number, worker.in_flight, used

    # Life.

    async def start(self) -> Description:
        """Start all workers; what the first says of its model. Raises what `load` raises in any of them."""
        self._started = self._loop.create_future()
        for _ in range(self.capacity):
            self._spawn()
        try:
            description = await self._started
        except BaseException:
            await self.close(0.0)
            raise
        finally:
            self._started = None
        self._ticking = self._loop.call_later(self._tick_s, self._tick)
        return description

    async def close(self, patience: float) -> None:
        """End all workers; those that are busy have so many seconds left. What is unanswered then fails."""
        self._closing = True
        for timer in (self._restart, self._ticking):
            if timer is not None:
                timer.cancel()
        self._fail_waiting("the server is stopping")
        for worker in list(self._workers):
            worker.retire()
            if worker.state is State.LOADING:
                worker.end()
        self._idle.clear()
        if not await self._wait_until_empty(patience):
            for worker in list(self._workers):
                worker.end("was still busy when the server stopped")
            await self._wait_until_empty(KILL_S)

    async def _wait_until_empty(self, patience: float) -> bool:
        if not self._workers:
            return True
        self._empty.clear()
        try:
            async with asyncio.timeout(patience):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    # Work.

    def submit(self, groups: Sequence[Group], done: Done, wanted: Wanted | None = None) -> None:
        """Run a batch in a worker; `done` is called on the loop, later. `wanted` tells of an index in `groups`, when
        it is about to be run, whether anybody still waits for it; the others fail without being run.
        """
        submission = Submission(groups, done, wanted)
        if self._quarantine:
            self._submit_warily(submission)
            self._pump()
            return
        piece = Piece(submission, tuple(range(len(groups))))
        if self._idle and not self._waiting:
            self._hand_over(piece)
        else:
            self._waiting.append(piece)
            self._pump()

    def stream(self, call: Any, sink: Sink) -> None:
        """Run a predict that yields; each item goes to the sink as it comes. After the first it is not begun again."""
        ended = self._quarantine.ended_by([call])
        if ended >= ENOUGH:
            self._loop.call_soon(sink.close, self._refused())
            return
        self._waiting.append(Stream(call, sink, ended))
        self._pump()

    def collect(self) -> None:
        """Look whether a worker has answered; at most once a millisecond, for it is a system call each."""
        now = time.monotonic()
        if now - self._collected < COLLECT_S:
            return
        self._collected = now
        for worker in list(self._workers):
            worker.look()

    def _submit_warily(self, submission: Submission) -> None:
        """What has ended workers fails, what may have runs alone, the rest together."""
        clean: list[int] = []
        for index, group in enumerate(submission.groups):
            ended = self._quarantine.ended_by(group)
            if ended >= ENOUGH:
                self._loop.call_soon(submission.settle, [index], [self._refused()])
            elif ended:
                self._waiting.append(Piece(submission, (index,), ended))
            else:
                clean.append(index)
        if clean:
            self._waiting.append(Piece(submission, tuple(clean)))

    def _pump(self) -> None:
        """Give waiting pieces to idle workers."""
        if self._waiting and self._hopeless():
            self._loop.call_soon(self._fail_waiting, self.why_not_ready)
        while self._waiting and self._idle:
            piece = self._waiting.popleft().still_wanted()
            if piece is not None:
                self._hand_over(piece)

    def _hand_over(self, piece: Piece | Stream) -> None:
        worker = self._idle.pop()
        try:
            worker.run(piece, self._settings.batch_timeout)
        except Exception as error:  # a value that cannot be pickled
            self._idle.append(worker)
            self._loop.call_soon(piece.fail, failure(f"the input cannot be handed to a worker process: {error}"))

    def _hopeless(self) -> bool:
        """Whether waiting for a worker makes no sense."""
        return not self.alive or (self._failures >= HOPELESS and not self.ready)

    def _fail_waiting(self, text: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for piece in waiting:
            piece.fail(failure(text))

    def ran(self, worker: Worker, piece: Piece | Stream, answer: Any) -> None:
        """A worker has run a piece."""
        if worker.answered == 1:
            self._failures = 0
        if worker.state is State.IDLE:
            self._idle.append(worker)
            self._pump()  # first, so that the worker computes while answers are encoded
        if piece.ended:
            self._quarantine.clear(piece.groups[0])
        if isinstance(answer, Exception):
            piece.fail(failure(f"the answer cannot be taken over from the worker process: {answer!r}"))
        elif isinstance(answer, Failed):
            piece.fail(answer)
        elif isinstance(piece, Stream):
            piece.sink.close(None)
        else:
            outcomes, seconds, busy, runs = answer
            piece.submission.took(seconds, busy, runs)
            piece.submission.settle(piece.indices, _one_each(piece, outcomes))

    def asked(self, worker: Worker, piece: Piece | Stream, question: Question) -> None:
        """A worker asks another model."""
        if self._ask is None:
            worker.tell(piece, Told(None, 503, f"model {question.name!r}: there are no other models here"))
        else:
            self._ask(question, piece.deadline, functools.partial(worker.tell, piece))

    # Workers that come and go.

    def _spawn(self, replaces: Worker | None = None) -> None:
        worker = Worker(self._template, self, self._settings.arena_bytes)
        worker.replaces = replaces
        self._workers.append(worker)
        self.counts["started"] += 1
        worker.load(self._load)

    def loaded(self, worker: Worker, description: Description) -> None:
        """A worker has loaded the model."""
        worker.memory_limit = max(self._settings.max_memory, int(worker.own_memory() * GROWTH))
        self._idle.append(worker)
        if worker.replaces is not None:
            self._replace(worker.replaces)
            worker.replaces = None
        if self._started is not None:
            if all(other.serving for other in self._workers) and not self._started.done():
                self._started.set_result(description)
        elif self._last_failure:
            self._last_failure = ""
            self._event("info", "worker ready", worker=worker.name)
        self._pump()

    def _replace(self, old: Worker) -> None:
        if old in self._idle:
            self._idle.remove(old)
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

    def returned(self, piece: Piece | Stream) -> None:
        """A piece was sent to a worker that had ended."""
        self._waiting.appendleft(piece)

    def ended(self, worker: Worker, piece: Piece | Stream | None, reason: str, *, again: bool) -> None:
        """A worker's process is gone."""
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        if not self._workers:
            self._empty.set()
        self.counts["ended"] += 1
        if self._started is not None:
            if not self._started.done():
                self._started.set_exception(ModelError(f"a worker process {reason} while it loaded the model"))
            return
        if not (self._closing or (worker.retiring and piece is None)):
            self._count_failure(worker, reason)
        if piece is not None:
            self._try_again(piece, worker, reason, again=again)
        if self._closing:
            self._fail_waiting("the server is stopping")
        self._fill()
        self._pump()

    def _count_failure(self, worker: Worker, reason: str) -> None:
        self._failures = 0 if worker.proven else self._failures + 1
        if worker.proven or not self._last_failure:
            self._last_failure = reason
        if worker.replaces is not None:
            self._next_replacement = self._loop.time() + REPLACE_PAUSE_S
        self._event("error", "worker ended", worker=worker.name, reason=reason)

    def _fill(self) -> None:
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
            self._fill()

    def _missing(self) -> int:
        """How many workers there are too few; a successor counts once its predecessor is gone."""
        staying = [worker for worker in self._workers if not worker.retiring and worker.replaces not in self._workers]
        return self.capacity - len(staying)

    def _try_again(self, piece: Piece | Stream, worker: Worker, reason: str, *, again: bool) -> None:
        """A worker ended while it ran this piece: each of its requests gets one more chance, alone."""
        ended = piece.ended + 1
        groups = piece.groups
        if self._closing or not self.alive:
            piece.fail(failure(f"the worker process {reason}"))
            return
        if len(groups) == 1:
            self._quarantine.blame(groups[0], ended)
        if not again:
            piece.fail(failure(f"the worker process {reason}", f"{worker.name} {reason} in the middle of a stream"))
        elif ended >= ENOUGH:
            self.counts["quarantined"] += 1
            text = f"this input ended {ended} worker processes (the last one {reason}) and is not tried again"
            piece.fail(failure(text, f"{worker.name} {reason} while it ran this input alone; quarantined"))
        else:
            self.counts["requeued"] += len(groups)
            self._waiting.extendleft(reversed(list(piece.alone(ended))))

    def _refused(self) -> Failed:
        self.counts["refused"] += 1
        return failure(f"this input ended {ENOUGH} worker processes before and is not tried again for now")

    # Time and memory.

    def _tick(self) -> None:
        """Now and then: kill what hangs, trim arenas, replace a worker that has grown too large, one at a time."""
        self._ticking = self._loop.call_later(self._tick_s, self._tick)
        for worker in self._workers:
            worker.check_limit()
            worker.give_back()
        replacing = any(worker.replaces is not None for worker in self._workers)
        if not self._settings.max_memory or replacing or self._loop.time() < self._next_replacement:
            return
        for worker in self._workers:
            if worker.serving and not worker.retiring and worker.own_memory() > worker.memory_limit:
                self._spawn(replaces=worker)
                return


def _one_each(piece: Piece, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    if len(outcomes) == len(piece.indices):
        return outcomes
    return [failure(f"the worker answered {len(outcomes)} requests of {len(piece.indices)}")] * len(piece.indices)


def _raised(failed: LoadFailure) -> Exception:
    """The exception that `load` raised, with the worker's traceback as its cause."""
    error = failed.error or ModelError(f"the model did not load: {failed.text}")
    error.__cause__ = _Remote(failed.trace)
    return error


class _Remote(Exception):  # noqa: N818  never raised: it only carries a traceback's text
    def __str__(self) -> str:
        return f"in the worker process:\n{self.args[0]}"
