"""One worker process as the server sees it: its state, its channel, and the piece of work that it has.

It tells the pool what happens; every decision is the pool's.
"""

from __future__ import annotations

import asyncio
import enum
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from berth.calls import Question, Told
from berth.model import Model
from berth.workers.batches import Piece, Stream
from berth.workers.channel import Channel
from berth.workers.messages import (
    ASK,
    ITEM,
    LOAD,
    LOAD_FAILED,
    LOADED,
    NEXT,
    RAN,
    RUN,
    STOP,
    STREAM,
    STREAMED,
    TOLD,
    Frame,
    TracedWork,
)
from berth.workers.orders import Exited, Forked
from berth.workers.process import Description, LoadFailure
from berth.workers.template import Template

PROVEN_S = 10.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class State(enum.Enum):
    """Where a worker is in its life."""

    LOADING = "loading"
    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"


class Owner(Protocol):
    """Who hears of a worker."""

    def loaded(self, worker: Worker, description: Description) -> None:
        """It has loaded the model and is idle."""

    def load_failed(self, worker: Worker, failure: LoadFailure) -> None:
        """The model's load raised; the process ends."""

    def ran(self, worker: Worker, piece: Piece | Stream, answer: Any) -> None:
        """It has run a piece and is idle; the answer is an exception where it could not be read."""

    def asked(self, worker: Worker, piece: Piece | Stream, question: Question) -> None:
        """While it runs a piece it asks another model; `tell` is the answer."""

    def returned(self, piece: Piece | Stream) -> None:
        """A piece that a worker never began, because it ended before."""

    def ended(self, worker: Worker, piece: Piece | Stream | None, reason: str, *, again: bool) -> None:
        """Its process is gone; it had this piece, which may be run `again` if nothing of it has gone out."""


class Worker:
    """A process, from the order to fork it until it is buried."""

    def __init__(self, template: Template, owner: Owner, arena_bytes: int) -> None:
        self.state = State.LOADING
        self.replaces: Worker | None = None
        self.retiring = False
        self.answered = 0
        self.pid = 0
        self.memory_limit = 0
        self._template = template
        self._owner = owner
        self._piece: Piece | Stream | None = None
        self._spoken = False  # an item of the stream has gone out, so it cannot be begun again
        self._sequence = 0
        self._unreadable: Exception | None = None
        self._why = ""
        self._loaded = math.inf
        self._read_all = True
        self._began, self._limit = 0.0, 0.0
        self._channel = Channel(arena_bytes, self._received, self._lost)
        self.number = template.fork(self._channel.worker_ends, self._heard)
        self._channel.let_go()

    @property
    def name(self) -> str:
        """For the log."""
        return f"worker {self.number} (process {self.pid})"

    @property
    def in_flight(self) -> int:
        """How many requests it runs."""
        return 0 if self._piece is None else len(self._piece.groups)

    @property
    def proven(self) -> bool:
        """Whether it has answered, or stood ready for a while: its end says nothing of the next one's chances."""
        return self.answered > 0 or time.monotonic() - self._loaded > PROVEN_S

    @property
    def serving(self) -> bool:
        """Whether it has loaded the model and lives."""
        return self.state in (State.IDLE, State.BUSY)

    def load(self, load: Callable[[], Model]) -> None:
        """Have it load the model; the callable travels by its name."""
        self._channel.send(LOAD, self._sequence, load)

    def run(self, piece: Piece | Stream, limit: float) -> None:
        """Have it run a piece within so many seconds, or each item of a stream.

        Raises what pickling the input raises, and stays idle then.
        """
        self._sequence += 1
        self._piece, self._spoken = piece, False
        self.state = State.BUSY
        self._began, self._limit = time.monotonic(), limit
        try:
            kind, work = (STREAM, piece.call) if isinstance(piece, Stream) else (RUN, piece.groups)
            headers = piece.traces()
            self._channel.send(kind, self._sequence, TracedWork(work, headers) if any(headers) else work)
        except Exception:
            self._piece, self.state = None, State.IDLE
            raise

    def tell(self, piece: Piece | Stream, told: Told) -> None:
        """What another model answered, if the worker still runs the piece that asked."""
        if self._piece is piece and self.state is State.BUSY:
            self._began = time.monotonic()
            try:
                self._channel.send(TOLD, self._sequence, told)
            except Exception as error:  # a value that cannot be pickled
                text = f"the answer cannot be handed to a worker process: {error}"
                self._channel.send(TOLD, self._sequence, Told(None, 500, text))

    def retire(self) -> None:
        """End after the piece that it has."""
        self.retiring = True
        if self.state is State.IDLE:
            self.state = State.ENDING
            self._channel.close()

    def end(self, why: str = "") -> None:
        """Kill it; `why` goes into the reason."""
        self._why = self._why or why
        self.state = State.ENDING
        self._channel.close()
        self._template.end(self.number)

    def own_memory(self) -> int:
        """Bytes of memory that are its own: not files, not the arena. 0 when it is gone."""
        try:
            _, resident, shared, *_ = Path(f"/proc/{self.pid}/statm").read_text().split()
        except OSError:
            return 0
        return (int(resident) - int(shared)) * _PAGE_BYTES

    def check_limit(self) -> None:
        """Kill it when its piece takes too long."""
        if self._piece is not None and self._limit and time.monotonic() - self._began > self._limit:
            self.end(f"took longer than {self._limit:g} s")

    def look(self) -> None:
        """Take what it has answered, if it has."""
        if self.state is State.BUSY:
            self._channel.look()

    def give_back(self) -> None:
        """Return what large messages left in the arena; only when idle."""
        if self.state is State.IDLE:
            self._channel.give_back()

    def _heard(self, news: Forked | Exited) -> None:
        if isinstance(news, Forked):
            self.pid = news.pid
            return
        self._channel.finish()
        self._channel.close()
        self.state = State.ENDING
        piece = self._take_piece()
        if piece is not None and not self._read_all and not self._spoken:
            self._owner.returned(piece)
            piece = None
        reason = f"{self._why} and {news.reason}" if self._why else news.reason
        self._owner.ended(self, piece, reason, again=not self._spoken)

    def _lost(self, why: str, read_all: bool) -> None:
        self._read_all = read_all
        self.end(why)

    def _received(self, frame: Frame) -> None:
        if frame.sequence != self._sequence:
            self.end(f"answered {frame.sequence} when asked {self._sequence}")
            return
        try:
            value = self._channel.open(frame)
        except Exception as error:
            value = error
        kind = frame.kind
        del frame
        if kind in (RAN, STREAMED) and self._piece is not None:
            self._ran(value)
        elif kind == ITEM and isinstance(self._piece, Stream):
            self._pass_on(self._piece, value)
        elif kind == ASK and self._piece is not None:
            self._asked(self._piece, value)
        elif kind == LOADED and self.state is State.LOADING and isinstance(value, Description):
            self.state, self._loaded = State.IDLE, time.monotonic()
            self._owner.loaded(self, value)
        elif kind == LOAD_FAILED and isinstance(value, LoadFailure):
            self.state = State.ENDING
            self._owner.load_failed(self, value)
        else:
            self.end(f"sent a message of kind {kind}, which nobody expects")

    def _ran(self, value: Any) -> None:
        piece = self._take_piece()
        assert piece is not None
        self.answered += 1
        self.state = State.IDLE
        if self.retiring:
            self.retire()
        value, self._unreadable = self._unreadable or value, None
        self._owner.ran(self, piece, value)

    def _asked(self, piece: Piece | Stream, value: Any) -> None:
        """The time that another model takes is not this worker's; its deadline is kept by that model's queue."""
        self._began = math.inf
        if isinstance(value, Question):
            self._owner.asked(self, piece, value)
        else:
            self.tell(piece, Told(None, 500, f"the input cannot be taken over from the worker process: {value!r}"))

    def _pass_on(self, stream: Stream, value: Any) -> None:
        """An item goes to the caller; the next is asked for when the caller has room for it."""
        self._spoken = True
        if isinstance(value, Exception):
            self._unreadable = value
            self._ask_on(stream, listening=False)
            return
        self._began = math.inf
        if not stream.sink.full:
            self._ask_on(stream, listening=stream.sink.item(value))
            return
        waiting = asyncio.get_running_loop().run_in_executor(None, stream.sink.item, value)
        waiting.add_done_callback(lambda done: self._ask_on(stream, listening=done.result()))

    def _ask_on(self, stream: Stream, *, listening: bool) -> None:
        if self._piece is stream:
            self._began = time.monotonic()
            self._channel.send(NEXT if listening else STOP, self._sequence, None)

    def _take_piece(self) -> Piece | Stream | None:
        piece, self._piece = self._piece, None
        return piece
