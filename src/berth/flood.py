"""Callers that were turned away and ask again at once, thousands of them: how much of the event loop they get.

A refusal is made once and given again without asking for a moment. A turn of the loop ends in time, though there is
always somebody to be read from. And when refusals slow a model, those who get them are read from only as often as it
bears. The server has one `Flood`; its connections ask.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from time import perf_counter
from typing import Protocol

from berth.application import Application
from berth.http_exchange import HttpHead
from berth.work import Queue

SAME_S = 0.001  # how long the same request is refused without asking again whether there is room
LONG_S = 0.1  # a turn of the event loop after which who was told to come back later is not heard again in it
WAKE_S = 0.008  # many at once, as each time takes the core from the model
BURST_S = 0.02  # seconds' worth of refusals that may come together


class Resting(Protocol):
    """A connection that nothing is read from for a while."""

    def wake(self) -> None:
        """Read on."""


class Flood:
    """Who rests, and what is refused again."""

    def __init__(self, application: Application) -> None:
        self.turn_ends = 0.0  # after that, who is turned away rests; 0: nobody was in this turn
        self._application = application
        self._refusing: list[HttpHead] = []
        self._resting: deque[Resting] = deque()
        self._queue: Queue | None = None  # of the model that was asked for last
        self._waking: asyncio.TimerHandle | None = None
        self._woken = 0.0
        self._over = False
        self._loop = asyncio.get_running_loop()

    def must_rest(self, connection: Resting, queue: Queue | None) -> bool:
        """Whether nothing more is to be read for now from a connection that was turned away; it is woken later.

        When thousands ask again at once, there is always somebody to be read from, and the loop's turn would not end;
        timers, new connections and results wait for that.
        """
        now = perf_counter()
        if not self.turn_ends:
            self._queue = queue
            held_back = queue is not None and queue.bears < math.inf and not self._over
            self.turn_ends = -math.inf if held_back else now + LONG_S
            self._loop.call_soon(self._end_turn)
        if now > self.turn_ends:
            self._resting.append(connection)
            return True
        return False

    def refuse_again(self, head: HttpHead) -> None:
        """For a moment, but not beyond this turn, requests with these first lines need not be asked about."""
        if self.turn_ends:
            if not head.refused_until:
                self._refusing.append(head)
            head.refused_until = perf_counter() + SAME_S

    def end(self) -> None:
        """Hold nobody back any more: the server is to stop, and each request that was sent is to be answered."""
        self._over = True
        self._wake(len(self._resting))

    def _end_turn(self) -> None:
        self.turn_ends = 0.0
        refusing, self._refusing = self._refusing, []
        for head in refusing:
            self._application.count_refused(head, head.refused_again)
            head.refused_until, head.refused_again = 0.0, 0
        if self._waking is None:
            self._wake_some()

    def _wake_some(self) -> None:
        """As many as the model bears in the time since the last ones."""
        self._waking = None
        now = perf_counter()
        rate = math.inf if self._over or self._queue is None else self._queue.bears
        if rate == math.inf:
            self._wake(len(self._resting))
            return
        number = int(rate * min(now - self._woken, BURST_S))
        if number:
            self._woken = now
            self._wake(min(number, len(self._resting)))
        if self._resting:
            self._waking = self._loop.call_later(WAKE_S, self._wake_some)

    def _wake(self, number: int) -> None:
        for _ in range(number):
            self._resting.popleft().wake()
