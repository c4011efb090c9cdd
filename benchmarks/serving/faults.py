"""What a server does when it is told to stop, loses a worker, or is asked nonsense: scenarios of `robustness`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from typing import Any

from benchmarks.serving.client import Connection, Lost, connect, post
from benchmarks.serving.under_test import Figures, Server, Tally, marked, run, served

# SIGTERM under load.


async def _keep_asking(port: int, lane: int, tally: Tally, until: asyncio.Event, *, fresh: bool) -> None:
    """Ask until told, or until nobody listens any more; on one connection, or on a new one each time."""
    connection: Connection | None = None
    number = 0
    while not until.is_set():
        try:
            if connection is None or connection.closed:
                connection = await connect(port)
        except OSError:
            tally.refused_connections += 1
            return
        number += 1
        value = lane * 1_000_000 + number
        try:
            reply = await connection.ask(post("/predict", {"value": value, "ms": 1}))
        except Lost as error:
            tally.lost.append(f"{'fresh' if fresh else 'keep-alive'}: {error}")
            connection = None
            continue
        tally.judge(value, reply)
        if fresh or reply.closes:
            connection.close()
            connection = None


async def _sigterm_once(server: Server, tally: Tally) -> None:
    until = asyncio.Event()
    lanes = [
        asyncio.create_task(_keep_asking(server.port, lane, tally, until, fresh=lane % 2 == 0)) for lane in range(32)
    ]
    await asyncio.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        await asyncio.gather(*lanes)


def sigterm(rounds: int) -> Figures:
    """SIGTERM while 16 clients keep their connections and 16 open a new one for each request."""
    tally, codes = Tally(), Counter[int]()
    for _ in range(rounds):
        with served(PREDICTOR="robust:Spin") as server:
            run(_sigterm_once(server, tally))
            codes[server.process.wait(30)] += 1
    figures = {"rounds": rounds, **tally.figures(), "exit_codes": dict(codes)}
    return marked(figures, not tally.lost and not tally.wrong and set(codes) == {0})


# SIGKILL of a worker under load.


async def _sigkill(server: Server, rounds: int, tally: Tally) -> None:
    until = asyncio.Event()
    lanes = [asyncio.create_task(_keep_asking(server.port, lane, tally, until, fresh=False)) for lane in range(16)]
    connection = await connect(server.port)
    for number in range(rounds):
        await asyncio.sleep(0.5)
        value = 900_000_000 + number
        reply = await connection.ask(post("/predict", {"value": value, "ms": 1}))
        tally.judge(value, reply)
        os.kill(reply.json["pid"], signal.SIGKILL)
    await asyncio.sleep(1.0)
    until.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*lanes)


def sigkill(rounds: int) -> Figures:
    """SIGKILL one of two workers, again and again, while 16 clients ask."""
    tally = Tally()
    with served(PREDICTOR="robust:Spin", WORKERS=2) as server:
        run(_sigkill(server, rounds, tally))
    return marked({"rounds": rounds, **tally.figures()}, not tally.lost and not tally.wrong)


# One bad item among many.


async def _bad_item(port: int, rounds: int) -> tuple[Counter[int], Counter[int]]:
    good, bad = Counter[int](), Counter[int]()

    async def lane(number: int, guilty: bool) -> None:
        connection = await connect(port)
        for _ in range(5):
            x: list[Any] = [[1.0, 2.0], [3.0, 4.0]] if guilty else [number, 1.0, 2.0, 3.0]
            reply = await connection.ask(post("/predict", {"x": x}))
            right = guilty or (reply.status == 200 and reply.json == number + 6)
            (bad if guilty else good)[reply.status if right else -1] += 1
        connection.close()

    for _ in range(rounds):
        await asyncio.gather(*(lane(number, guilty=False) for number in range(48)), lane(48, guilty=True))
    return good, bad


def bad_item(rounds: int) -> Figures:
    """One request of the wrong shape for every 48 good ones in flight, batching on: 240 good ones a round."""
    with served(PREDICTOR="robust:Rows", MAX_BATCH_DELAY_MS=2) as server:
        good, bad = run(_bad_item(server.port, rounds))
    figures = {"rounds": rounds, "good": dict(good), "bad": dict(bad)}
    return marked(figures, set(good) == {200} and set(bad) == {422})
