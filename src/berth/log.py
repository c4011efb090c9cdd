"""Structured logs: one JSON object a line on standard error, written by a thread of its own.

The event loop only appends to a bounded list, so a slow reader of the log never slows an answer; lines beyond the bound
are dropped and counted. No bodies are logged, and JSON escapes control characters, so a request cannot forge a line.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from typing import Any

import msgspec

from berth.config import LOG_LEVELS

MAX_LINES = 20_000
ACCESSES_PER_TICK = 500  # answered well, in half a second; beyond it they are only counted, here and in the metrics
PAUSE_S = 0.02  # lines that come within this time are written together

_Line = tuple[float, str, str, dict[str, Any]]
_Access = tuple[float, str | int, bytes, str, int, float]


class Log:
    """The server's log. `start` before use from the loop, `close` to write what is left."""

    def __init__(self, level: str = "info", descriptor: int = 2, prefix: str = "") -> None:
        self._prefix = prefix
        self._second = -1
        self._second_text = ""
        self._threshold = LOG_LEVELS.index(level)
        self._descriptor = descriptor
        self._lines: deque[_Line] = deque()
        self._accesses: deque[_Access] = deque()
        self._middles: dict[tuple[bytes, str, int], str] = {}
        self._dropped = 0
        self._news = threading.Event()
        self._closing = False
        self._encode = msgspec.json.Encoder(enc_hook=repr).encode
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._accesses_wanted = self._threshold <= LOG_LEVELS.index("info")
        self.access_budget = 0  # how many more requests that went well are logged one by one until the next tick
        self.access_skipped = 0
        self.tick()

    def start(self) -> None:
        """Start the writing thread."""
        self._thread.start()

    def event(self, level: str, message: str, **fields: Any) -> None:
        """Log one event."""
        if LOG_LEVELS.index(level) < self._threshold:
            return
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        self._lines.append((time.time(), level, message, fields))
        self._wake()

    def tick(self) -> None:
        """Called twice a second: say how many requests were not logged one by one, and begin anew."""
        skipped, self.access_skipped = self.access_skipped, 0
        if self._accesses_wanted:
            self.access_budget = ACCESSES_PER_TICK
            if skipped:
                self.event("info", "requests not logged one by one", count=skipped)

    def access(self, request_id: str | int, method: bytes, route: str, status: int, seconds: float) -> None:
        """Log one answered request; a number becomes a request id of this process."""
        if not self._accesses_wanted:
            return
        self.access_budget -= 1
        accesses = self._accesses
        if len(accesses) >= MAX_LINES:
            self._dropped += 1
            return
        accesses.append((time.time(), request_id, method, route, status, seconds))
        if len(accesses) == 1:
            self._wake()

    def close(self, deadline: float = 2.0) -> None:
        """Write what is left, waiting at most `deadline` seconds for a slow reader."""
        self._closing = True
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(deadline)
        else:
            self._drain()

    def _wake(self) -> None:
        if not self._news.is_set():
            self._news.set()

    def _work(self) -> None:
        while not self._closing:
            self._news.wait()
            if not self._closing:
                time.sleep(PAUSE_S)
            self._news.clear()
            self._drain()
        self._drain()

    def _drain(self) -> None:
        chunks: list[bytes] = []
        if self._accesses:
            chunks.append(self._access_lines().encode())
        while self._lines:
            chunks.append(self._line(*self._lines.popleft()))
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            chunks.append(self._line(time.time(), "warning", "log lines dropped", {"count": dropped}))
        if chunks:
            _write(self._descriptor, b"".join(chunks))

    def _line(self, at: float, level: str, message: str, fields: dict[str, Any]) -> bytes:
        return self._encode({"time": self._stamp(at), "level": level, "message": message, **fields}) + b"\n"

    def _access_lines(self) -> str:
        """What was answered since the last time.

        This is done for every request, so what many lines share is formatted once: the time, to the millisecond, and
        all between id and seconds.
        """
        lines: list[str] = []
        millisecond, start = -1, ""
        while self._accesses:
            at, request_id, method, route, status, seconds = self._accesses.popleft()
            if (now := int(at * 1000)) != millisecond:
                millisecond = now
                start = f'{{"time":"{self._stamp(at)}","level":"info","message":"request","request_id":'
            middle = self._middles.get((method, route, status))
            if middle is None:
                middle = f',"method":"{method.decode("latin-1")}","route":"{route}","status":{status},"seconds":'
                self._middles[method, route, status] = middle
            if type(request_id) is int:
                lines.append('%s"%s-%x"%s%.6f}\n' % (start, self._prefix, request_id, middle, seconds))  # noqa: UP031
            else:  # the caller's own may need escaping
                lines.append(f"{start}{self._encode(request_id).decode()}{middle}{seconds:.6f}}}\n")
        return "".join(lines)

    def _stamp(self, at: float) -> str:
        """RFC 3339 with milliseconds."""
        second = int(at)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{int((at - second) * 1000):03d}Z"


def complain(text: str) -> None:
    """One plain line on standard error: why the start stops."""
    sys.stderr.write(f"berth: {text}\n")
    sys.stderr.flush()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            time.sleep(PAUSE_S)
        except OSError:
            return  # nobody reads the log any more; serving goes on
