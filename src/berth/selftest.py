"""The goldens before the first request: a server that would answer otherwise than its image promises does not serve.

With BERTH_SELFTEST=on, server.py calls `prove` once everything is loaded and warm. The model is asked where it is
served (its thread, its loop, its workers), past the queue, so that nothing is counted or cached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from berth.errors import GoldenError
from berth.executor import Failed, Finished, Outcome
from berth.goldens import NOT_A_CALL, Golden, Verdict, call_of, judge, read_goldens
from berth.served import ServedModel

Event = Callable[..., None]  # Log.event: level, message, fields


async def prove(served: ServedModel, folder: Path, patience: float, event: Event) -> None:
    """Answer every golden of a folder; GoldenError when one differs, or is not answered within `patience` seconds.

    An image without goldens promises nothing: that is said in the log, and no reason to stop.
    """
    goldens = await asyncio.to_thread(read_goldens, folder)
    if not goldens:
        event("warning", "selftest skipped", model=served.name, reason=f"no goldens in {folder}")
        return
    started = perf_counter()
    verdicts = [await _ask(served, golden, patience) for golden in goldens]
    differing = [verdict for verdict in verdicts if verdict.problem]
    for verdict in differing:
        event("error", "golden differs", model=served.name, golden=verdict.name, problem=verdict.problem)
    if differing:
        raise GoldenError(_complaint(served.name, len(goldens), differing))
    event(
        "info", "selftest passed", model=served.name, goldens=len(goldens), seconds=round(perf_counter() - started, 3)
    )


async def _ask(served: ServedModel, golden: Golden, patience: float) -> Verdict:
    try:
        call = call_of(served.model, golden)
    except NOT_A_CALL as error:
        return Verdict(golden.name, str(error))
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    if served.model.streams:
        served.executor.stream(call, _Items(answer))
    else:
        served.executor.submit([[call]], lambda finished: _first(answer, finished))
    try:
        async with asyncio.timeout(patience):
            return judge(served.model, golden, await answer)
    except TimeoutError:
        return Verdict(golden.name, f"no answer within {patience:g} s (BERTH_REQUEST_TIMEOUT_S)")


def _first(answer: asyncio.Future[Outcome], finished: Finished) -> None:
    if not answer.done():
        answer.set_result(finished.outcomes[0])


class _Items:
    """Collects what a predictor yields; the list is its answer."""

    full = False

    def __init__(self, answer: asyncio.Future[Outcome]) -> None:
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._items: list[Any] = []

    def item(self, value: Any) -> bool:
        """Keep it; go on as long as somebody waits."""
        self._items.append(value)
        return not self._answer.done()

    def close(self, failed: Failed | None) -> None:
        """It is complete, or has failed."""
        self._loop.call_soon_threadsafe(self._end, failed)

    def _end(self, failed: Failed | None) -> None:
        if not self._answer.done():
            self._answer.set_result(failed or [self._items])


def _complaint(name: str, count: int, differing: Sequence[Verdict]) -> str:
    first = differing[0]
    return (
        f"BERTH_SELFTEST: {len(differing)} of {count} goldens differ on this machine, so model {name!r} is not served; "
        f"{first.name}: {first.problem.splitlines()[0]}"
    )
