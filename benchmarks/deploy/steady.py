"""Requests at fixed times, each with its own outcome: what a deploy costs whoever calls meanwhile. Used by `peers`.

An open load: a request is sent when its time comes, whether or not others have been answered. Most go over connections
that are kept, a share of them over a connection of its own. A kept connection that the server has closed in time is
replaced, as every client's pool does; one that breaks under a request has failed it. No request is sent again. wrk
would count connection attempts, as fast as it can make them, while nothing listens; that is why this is not wrk.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType

DEADLINE_S = 10.0
MOST_AT_ONCE = 2000


@dataclass
class Outcomes:
    """What became of the requests; `failures` by reason. Times in seconds of one clock."""

    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    failed_at: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return sum(self.failures.values())


class Steady:
    """A load on 127.0.0.1:`port` from the block's begin to its end, in a thread of its own."""

    def __init__(self, port: int, path: str, body: str, *, rate: float, fresh_every: int = 10) -> None:
        self._port, self._interval, self._fresh_every = port, 1 / rate, fresh_every
        head = f"POST {path} HTTP/1.1\r\nHost: model\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        self._kept = f"{head}\r\n\r\n{body}".encode()
        self._fresh = f"{head}\r\nConnection: close\r\n\r\n{body}".encode()
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.outcomes = Outcomes()

    def __enter__(self) -> Outcomes:
        self._thread.start()
        return self.outcomes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(2 * DEADLINE_S)

    async def _run(self) -> None:
        due, number = time.perf_counter(), 0
        under_way = set[asyncio.Task[None]]()
        while not self._over.is_set():
            due += self._interval
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            number += 1
            if len(under_way) >= MOST_AT_ONCE:
                self._failed("nobody answers")
                continue
            task = asyncio.create_task(self._one(fresh=number % self._fresh_every == 0))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        for _, writer in self._idle:
            writer.close()

    async def _one(self, *, fresh: bool) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                status = await self._asked(fresh=fresh)
        except TimeoutError:
            self._failed("no answer in time")
        except ConnectionRefusedError:
            self._failed("connection refused")
        except (OSError, EOFError):
            self._failed("connection broke")
        else:
            if status == 200:
                self.outcomes.answered += 1
            else:
                self._failed(f"status {status}")

    async def _asked(self, *, fresh: bool) -> int:
        reader, writer = await self._connection(fresh=fresh)
        keep = False
        try:
            writer.write(self._fresh if fresh else self._kept)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            keep = not fresh and b"\r\nconnection: close" not in head
            return int(head.split(b" ", 2)[1])
        finally:
            if keep:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _connection(self, *, fresh: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle and not fresh:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)

    def _failed(self, why: str) -> None:
        self.outcomes.failures[why] += 1
        self.outcomes.failed_at.append(time.perf_counter())
