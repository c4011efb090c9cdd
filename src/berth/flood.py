"""Callers that were turned away and ask again at once, thousands of them: how much of the event loop they get.

A refusal is made once and given again without asking for a moment. When a turn of the loop grows long, or refusals slow
a model, those of callers who came back at once are held back: nobody asks again who has not been answered. So there are
as many as the model bears. The server has one `Flood`; its connections ask.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from time import perf_counter
from typing import Protocol

from berth.application import Application
from berth.http_exchange import HttpHead
from berth.work import Queue

SAME_S = 0.001  # how long the same request is refused without asking again whether there is room
LONG_S = 0.1  # a turn of the event loop after which refusals wait for its end
RELEASE_S = 0.008  # many at once, as each time takes the core from the model
BURST_S = 0.02  # seconds' worth of refusals that may come together


class Holding(Protocol):
    """A connection with a refusal that is not sent yet."""

    def release(self) -> None:
        """Send it."""


class Flood:
    """Which refusals are held back, and what is refused again."""

    def __init__(self, application: Application) -> None:
        self.turn_ends = 0.0  # after that, refusals are held back; 0: nobody was turned away in this turn
        self._application = application
        self._refusing: list[HttpHead] = []
        self._held: OrderedDict[Holding, None] = OrderedDict()
        self._queue: Queue | None = None  # of the model that was asked for last
        self._releasing: asyncio.TimerHandle | None = None
        self._released = 0.0
        self._over = False
        self._loop = asyncio.get_running_loop()

    def holds(self, connection: Holding, queue: Queue | None, *, again: bool) -> bool:
        """Whether a connection keeps a refusal until it is told to `release` it; `again`: its last was a moment ago."""
        now = perf_counter()
        if not self.turn_ends:
            self._queue = queue
            slowed = queue is not None and queue.bears < math.inf and not self._over
            self.turn_ends = -math.inf if slowed else now + LONG_S
            self._loop.call_soon(self._end_turn)
        if again and now > self.turn_ends:
            self._held[connection] = None
            return True
        return False

    def forget(self, connection: Holding) -> None:
        """The connection is gone."""
        self._held.pop(connection, None)

    def refuse_again(self, head: HttpHead) -> None:
        """For a moment, but not beyond this turn, requests with these first lines need not be asked about."""
        if self.turn_ends:
            if not head.refused_until:
                self._refusing.append(head)
            head.refused_until = perf_counter() + SAME_S

    def end(self) -> None:
        """Hold nothing back any more: the server is to stop."""
        self._over = True
        self._release(len(self._held))

    def _end_turn(self) -> None:
        self.turn_ends = 0.0
        refusing, self._refusing = self._refusing, []
        for head in refusing:
            self._application.count_refused(head, head.refused_again)
            head.refused_until, head.refused_again = 0.0, 0
        if self._releasing is None:
            self._release_some()

    def _release_some(self) -> None:
        """As many as the model bears in the time since the last ones."""
        self._releasing = None
        now = perf_counter()
        rate = math.inf if self._over or self._queue is None else self._queue.bears
        if rate == math.inf:
            self._release(len(self._held))
            return
        number = int(rate * min(now - self._released, BURST_S))
        if number:
            self._released = now
            self._release(min(number, len(self._held)))
        if self._held:
            self._releasing = self._loop.call_later(RELEASE_S, self._release_some)

    def _release(self, number: int) -> None:
        for _ in range(number):
            connection, _ = self._held.popitem(last=False)
            connection.release()
