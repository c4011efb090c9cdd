"""Structured logs: one JSON object a line on standard error, written by a thread of its own.

The event loop only appends to a bounded list, so a slow reader of the log never slows an answer; lines beyond the bound
are dropped and counted. No bodies are logged. What comes from callers can neither forge a line nor reach a terminal:
every character that is not printed as itself is escaped, and long texts lose their middle.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections import deque
from typing import Any, NamedTuple

import msgspec

from berth.config_settings import LOG_LEVELS

MAX_LINES = 20_000
ACCESSES_PER_TICK = 500  # answered well, in half a second; beyond it they are only counted, here and in the metrics
PAUSE_S = 0.02  # lines that come within this time are written together

MAX_TEXT = 4096  # characters of one value; a traceback may have four times as many
_MAX_MIDDLES = 1024
# Controls, soft and zero-width characters, line and paragraph separators, marks of direction, tags.
_INVISIBLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]"
)

_Line = tuple[float, str, str, dict[str, Any]]
_What = tuple[bytes, str, int, str, str]  # method, route, status, model, version


class Access(NamedTuple):
    """One answered request; a number as id becomes an id of this process, and an empty trace id is left out."""

    request_id: str | int
    what: _What
    seconds: float
    received: int
    sent: int
    trace_id: str


class Log:
    """The server's log. `start` before use from the loop, `close` to write what is left."""

    def __init__(self, level: str = "info", descriptor: int = 2, prefix: str = "") -> None:
        self._prefix = prefix
        self._second = -1
        self._second_text = ""
        self._threshold = LOG_LEVELS.index(level)
        self._descriptor = descriptor
        self._lines: deque[_Line] = deque()
        self._accesses: deque[tuple[float, Access]] = deque()
        self._middles: dict[_What, str] = {}
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
        for name, value in fields.items():
            if isinstance(value, str):
                fields[name] = _cut(value, MAX_TEXT * 4 if name == "traceback" else MAX_TEXT)
        self._lines.append((time.time(), level, message, fields))
        self._wake()

    def tick(self) -> None:
        """Called twice a second: say how many requests were not logged one by one, and begin anew."""
        skipped, self.access_skipped = self.access_skipped, 0
        if self._accesses_wanted:
            self.access_budget = ACCESSES_PER_TICK
            if skipped:
                self.event("info", "requests not logged one by one", count=skipped)

    def access(self, access: Access) -> None:
        """Log one answered request."""
        if not self._accesses_wanted:
            return
        self.access_budget -= 1
        accesses = self._accesses
        if len(accesses) >= MAX_LINES:
            self._dropped += 1
            return
        accesses.append((time.time(), access))
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
        return self._json({"time": self._stamp(at), "level": level, "message": message, **fields}).encode() + b"\n"

    def _json(self, value: Any) -> str:
        """JSON in which nothing is invisible: msgspec escapes the ASCII controls, this the others."""
        text = self._encode(value).decode()
        return text if text.isascii() and "\x7f" not in text else _INVISIBLE.sub(_escape, text)

    def _access_lines(self) -> str:
        """What was answered since the last time.

        This is done for every request, so what many lines share is formatted once: the time, to the millisecond, and
        all between id and seconds.
        """
        lines: list[str] = []
        millisecond, start = -1, ""
        while self._accesses:
            at, access = self._accesses.popleft()
            if (now := int(at * 1000)) != millisecond:
                millisecond = now
                start = f'{{"time":"{self._stamp(at)}","level":"info","message":"request","request_id":'
            middle = self._middles.get(access.what) or self._middle(access.what)
            request_id, _, seconds, received, sent, trace_id = access
            if type(request_id) is int:
                identity = f'"{self._prefix}-{request_id:x}"'
            else:  # the caller's own may need escaping
                identity = self._json(request_id)
            trace = f',"trace_id":"{trace_id}"' if trace_id else ""
            end = f'{seconds:.6f},"bytes_in":{received},"bytes_out":{sent}{trace}}}\n'
            lines.append(start + identity + middle + end)
        return "".join(lines)

    def _middle(self, what: _What) -> str:
        method, route, status, model, version = what
        fields: dict[str, Any] = {"method": _cut(method.decode("latin-1"), 64), "route": route, "status": status}
        if model:
            fields |= {"model": _cut(model, MAX_TEXT), "version": _cut(version, MAX_TEXT)}
        if len(self._middles) >= _MAX_MIDDLES:
            self._middles.clear()
        middle = self._middles[what] = "," + self._json(fields)[1:-1] + ',"seconds":'
        return middle

    def _stamp(self, at: float) -> str:
        """RFC 3339 with milliseconds."""
        second = int(at)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{int((at - second) * 1000):03d}Z"


def complain(text: str) -> None:
    """One plain line on standard error: why the start stops. Line breaks stay, other controls are made visible."""
    lines = [_INVISIBLE.sub(_escape, line) for line in _cut(text, MAX_TEXT).split("\n")]
    sys.stderr.write("berth: " + "\n".join(lines) + "\n")
    sys.stderr.flush()


def _cut(text: str, limit: int) -> str:
    """A text without its middle where it is too long, and without what UTF-8 cannot say."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {len(text) - limit} characters left out ... {text[-limit // 2 :]}"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)  # JSON knows only UTF-16's halves
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            time.sleep(PAUSE_S)
        except OSError:
            return  # nobody reads the log any more; serving goes on
