"""One worker process as the server sees it: its state, its channel, and the piece of work that it has.

It tells the pool what happens; every decision is the pool's.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from berth.model import Model
from berth.workers.batches import Piece
from berth.workers.channel import Channel
from berth.workers.messages import LOAD, LOAD_FAILED, LOADED, RAN, RUN, Frame
from berth.workers.orders import Exited, Forked
from berth.workers.process import Description, LoadFailure
from berth.workers.template import Template

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

    def ran(self, worker: Worker, piece: Piece, answer: Any) -> None:
        """It has run a piece and is idle; the answer is an exception where it could not be read."""

    def returned(self, piece: Piece) -> None:
        """A piece that a worker never began, because it ended before."""

    def ended(self, worker: Worker, piece: Piece | None, reason: str) -> None:
        """Its process is gone; it had this piece."""


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
        self._piece: Piece | None = None
        self._sequence = 0
        self._why = ""
        self._read_all = True
        self._began, self._limit = 0.0, 0.0
        self._channel = Channel(arena_bytes, self._received, self._lost)
        self._number = template.fork(self._channel.worker_ends, self._heard)
        self._channel.let_go()

    @property
    def name(self) -> str:
        """For the log."""
        return f"worker {self._number} (process {self.pid})"

    @property
    def serving(self) -> bool:
        """Whether it has loaded the model and lives."""
        return self.state in (State.IDLE, State.BUSY)

    def load(self, load: Callable[[], Model]) -> None:
        """Have it load the model; the callable travels by its name."""
        self._channel.send(LOAD, self._sequence, load)

    def run(self, piece: Piece, limit: float) -> None:
        """Have it run a piece within so many seconds. Raises what pickling the groups raises, and stays idle then."""
        self._sequence += 1
        self._channel.send(RUN, self._sequence, piece.groups)
        self._piece = piece
        self.state = State.BUSY
        self._began, self._limit = time.monotonic(), limit

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
        self._template.end(self._number)

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
        if piece is not None and not self._read_all:
            self._owner.returned(piece)
            piece = None
        reason = f"{self._why} and {news.reason}" if self._why else news.reason
        self._owner.ended(self, piece, reason)

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
        if kind == RAN and self._piece is not None:
            self._ran(value)
        elif kind == LOADED and self.state is State.LOADING and isinstance(value, Description):
            self.state = State.IDLE
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
        self._owner.ran(self, piece, value)

    def _take_piece(self) -> Piece | None:
        piece, self._piece = self._piece, None
        return piece
