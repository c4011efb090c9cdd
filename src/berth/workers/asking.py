"""Calls to other models from within a worker process: over the worker's own connection to the server.

While a batch runs the worker may ask, and the server tells: the two take turns as for the items of a stream. Threads of
a predictor that ask at once wait for one another. process.py makes one caller per worker.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from berth.calls import Question, Target, Told
from berth.errors import ModelError

Ask = Callable[[Question], Told]


class WorkerCaller:
    """Speaks through `ask`, which sends a question and waits for what is told; None while nothing runs."""

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self.ask: Ask | None = None
        self._turn = threading.Lock()

    def call(self, question: Question) -> Any:
        """Ask and wait; the server keeps the deadline."""
        with self._turn:
            if self.ask is None:
                raise ModelError(f"model {question.name!r} was called while no request was running")
            told = self.ask(question)
        return told.unwrap()

    async def call_async(self, question: Question) -> Any:
        """The same in a thread, so that other coroutines go on."""
        return await asyncio.to_thread(self.call, question)
