"""The workers of one model, in the executor's place: takes batches, answers each request exactly once.

A worker that ends, or hangs, is replaced. The requests that it had are run again, each alone: so the innocent are
answered, and one that ends a second worker fails and is kept out from then on. crew.py keeps the workers. The batcher
submits; all methods are called on the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from berth.calls import Question, Told
from berth.executor import Done, Failed, Group, Outcome, Sink
from berth.model import Model
from berth.process import Usage
from berth.workers.batches import Piece, Stream, Submission, Wanted, failure
from berth.workers.crew import Crew, Event, PoolSettings
from berth.workers.process import Description, LoadFailure
from berth.workers.quarantine import ENOUGH, Quarantine
from berth.workers.template import Template
from berth.workers.worker import State, Worker

COLLECT_S = 0.001

Ask = Callable[[Question, float, Callable[[Told], None]], None]  # Chain.ask: question, deadline, who is told


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
        self._crew = Crew(template, load, settings, event, self)
        self.counts = self._crew.counts  # started, ended, replaced, requeued, quarantined, refused
        self._settings = settings
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Piece | Stream] = deque()
        self._quarantine = Quarantine()
        self._collected = 0.0

    # How it is.

    @property
    def workers(self) -> Sequence[Worker]:
        """Those that there are, in whatever state."""
        return self._crew.workers

    @property
    def alive(self) -> bool:
        """Whether it can still start workers; when not, only a new server helps."""
        return self._crew.alive

    @property
    def why_dead(self) -> str:
        """Why not; empty when it is."""
        return self._crew.why_dead

    @property
    def ready(self) -> bool:
        """Whether a worker has loaded the model and lives."""
        return self._crew.ready

    @property
    def why_not_ready(self) -> str:
        """Why not; empty when it is."""
        return self._crew.why_not_ready

    def facts(self) -> Iterator[tuple[int, int, Usage]]:
        """Of each worker: its number, how many requests it runs, and what its process uses."""
        return self._crew.facts()

    # Life.

    async def start(self) -> Description:
        """Start all workers; what the first says of its model. Raises what `load` raises in any of them."""
        try:
            return await self._crew.start()
        except BaseException:
            await self.close(0.0)
            raise

    async def close(self, patience: float) -> None:
        """End all workers; those that are busy have so many seconds left. What is unanswered then fails."""
        self._crew.stop()
        self._fail_waiting("the server is stopping")
        await self._crew.close(patience)

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
        if self._crew.idle and not self._waiting:
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
        for worker in list(self._crew.workers):
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
        if self._waiting and self._crew.hopeless:
            self._loop.call_soon(self._fail_waiting, self.why_not_ready)
        while self._waiting and self._crew.idle:
            piece = self._waiting.popleft().still_wanted()
            if piece is not None:
                self._hand_over(piece)

    def _hand_over(self, piece: Piece | Stream) -> None:
        worker = self._crew.idle.pop()
        try:
            worker.run(piece, self._settings.batch_timeout)
        except Exception as error:  # a value that cannot be pickled
            self._crew.idle.append(worker)
            self._loop.call_soon(piece.fail, failure(f"the input cannot be handed to a worker process: {error}"))

    def _fail_waiting(self, text: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for piece in waiting:
            piece.fail(failure(text))

    def ran(self, worker: Worker, piece: Piece | Stream, answer: Any) -> None:
        """A worker has run a piece."""
        self._crew.answered(worker)
        if worker.state is State.IDLE:
            self._crew.idle.append(worker)
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

    def loaded(self, worker: Worker, description: Description) -> None:
        """A worker has loaded the model."""
        self._crew.loaded(worker, description)
        self._pump()

    def load_failed(self, worker: Worker, failed: LoadFailure) -> None:
        """A worker's load raised; its end follows."""
        self._crew.load_failed(worker, failed)

    def ended(self, worker: Worker, piece: Piece | Stream | None, reason: str, *, again: bool) -> None:
        """A worker's process is gone."""
        if not self._crew.left(worker, reason, busy=piece is not None):
            return
        if piece is not None:
            self._try_again(piece, worker, reason, again=again)
        if self._crew.closing:
            self._fail_waiting("the server is stopping")
        self._crew.fill()
        self._pump()

    def returned(self, piece: Piece | Stream) -> None:
        """A piece was sent to a worker that had ended."""
        self._waiting.appendleft(piece)

    def _try_again(self, piece: Piece | Stream, worker: Worker, reason: str, *, again: bool) -> None:
        """A worker ended while it ran this piece: each of its requests gets one more chance, alone."""
        ended = piece.ended + 1
        groups = piece.groups
        if self._crew.closing or not self.alive:
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


def _one_each(piece: Piece, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    if len(outcomes) == len(piece.indices):
        return outcomes
    return [failure(f"the worker answered {len(outcomes)} requests of {len(piece.indices)}")] * len(piece.indices)
