"""The executor of predictors with `async def predict`: an event loop of their own, in a thread of its own.

Many calls are under way at once, up to `capacity`; a call that blocks delays its like, and never the server's health
checks, deadlines or other models. served.py chooses it by what the predictor is.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import uvloop

from berth.calls import running_from, running_until
from berth.executor import NOBODYS_FAULT, Done, Failed, Finished, Group, Outcome, Sink, cut, failure_of, hung
from berth.model import Model


class AsyncExecutor:
    """A loop that loads the model and runs its coroutines."""

    why_not_ready = ""

    def __init__(self, capacity: int, patience: float = 0.0) -> None:
        self.capacity = capacity
        self._patience = patience  # seconds that the loop may be held up, or all calls be without an end; 0: any
        self._asked: float | None = None  # when the loop was asked for a sign of life that it has not given yet
        self._since: dict[object, float] = {}  # what runs, and when it began or last came to something
        self._running = uvloop.new_event_loop()
        self._first: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()
        self._model: Model
        self._loop: asyncio.AbstractEventLoop

    @property
    def why_dead(self) -> str:
        """Why no answer is to be expected: the loop has ended or is held up, or no call comes to an end."""
        if not self._thread.is_alive():
            return "the model's event loop has ended"
        now = time.monotonic()
        asked = self._asked  # the loop may answer at any moment, also while we are here
        if asked is None:
            asked = self._asked = now
            self._running.call_soon_threadsafe(self._answer)
        running = list(self._since.values())
        stuck = now - max(running) if len(running) >= self.capacity else 0.0
        seconds = max(now - asked, stuck)
        return hung(seconds) if self._patience and seconds > self._patience else ""

    def _answer(self) -> None:
        self._asked = None

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine of `load` to its end."""
        return self._running.run_until_complete(work)

    def load(self, load: Callable[[], Model]) -> Model:
        """Run `load` in the loop's thread and wait for it; its exception is raised here."""
        loaded: queue.SimpleQueue[Model | BaseException] = queue.SimpleQueue()

        def job() -> None:
            try:
                self._model = load()
                loaded.put(self._model)
            except BaseException as error:
                loaded.put(error)

        self._first.put(job)
        result = loaded.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def attach(self) -> None:
        """Bring results to the running loop from now on."""
        self._loop = asyncio.get_running_loop()

    def submit(self, groups: Sequence[Group], done: Done, wanted: Callable[[int], bool] | None = None) -> None:
        """Await a batch."""
        self._spawn(self._run(groups, done, wanted))

    def stream(self, call: Any, sink: Sink) -> None:
        """Iterate over what predict yields."""
        self._spawn(self._stream(call, sink))

    def collect(self) -> None:
        """Nothing: many calls are under way at once, and none waits for another's end."""

    async def close(self, patience: float) -> None:
        """Wait so many seconds for what runs, and end the thread."""
        done = asyncio.run_coroutine_threadsafe(self._finish(patience), self._running)
        await asyncio.wrap_future(done)
        self._running.call_soon_threadsafe(self._running.stop)
        await asyncio.to_thread(self._thread.join, patience)

    async def _finish(self, patience: float) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=patience)

    def _work(self) -> None:
        asyncio.set_event_loop(self._running)
        self._first.get()()
        self._running.run_forever()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._running)

    async def _run(self, groups: Sequence[Group], done: Done, wanted: Callable[[int], bool] | None) -> None:
        running_until.set(wanted)
        started = time.perf_counter()
        batch = object()
        self._since[batch] = time.monotonic()
        try:
            outcomes, runs = await self._outcomes(groups)
        finally:
            del self._since[batch]
        seconds = time.perf_counter() - started
        with contextlib.suppress(RuntimeError):  # the server's loop is closed: the drain gave this batch up
            self._loop.call_soon_threadsafe(done, Finished(outcomes, seconds, seconds, runs))

    async def _outcomes(self, groups: Sequence[Group]) -> tuple[list[Outcome], int]:
        try:
            return cut(await self._model.run_async([call for group in groups for call in group]), groups), 1
        except BaseException as error:
            failed = failure_of(error)
            if len(groups) == 1 or failed.kind in NOBODYS_FAULT:
                return [failed] * len(groups), 1
        middle = len(groups) // 2
        first, first_runs = await self._outcomes(groups[:middle])
        began = running_from.get()
        running_from.set(began + sum(map(len, groups[:middle])))
        try:
            second, second_runs = await self._outcomes(groups[middle:])
        finally:
            running_from.set(began)
        return first + second, 1 + first_runs + second_runs

    async def _stream(self, call: Any, sink: Sink) -> None:
        failed: Failed | None = None
        running_until.set(sink)
        self._since[sink] = time.monotonic()
        try:
            async with contextlib.aclosing(self._model.stream(call)) as items:
                async for value in items:
                    self._since[sink] = math.inf  # a caller that reads slowly is no model that hangs
                    listening = await asyncio.to_thread(sink.item, value) if sink.full else sink.item(value)
                    self._since[sink] = time.monotonic()
                    if not listening:
                        break
        except BaseException as error:
            failed = failure_of(error)
        finally:
            del self._since[sink]
        sink.close(failed)
