"""What berth says, line by line, made readable: its JSON log, tracebacks among it, and what the model prints.

server.py feeds it the child's standard error. As JSON the lines pass as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from dockyard.dev.traces import BEGIN, parse, readable

Say = Callable[[str, str], None]  # the kind of a line (plain, good, bad, dim), and the line
_KNOWN = {"time", "level", "message", "request_id", "method", "route", "status", "seconds", "traceback", "error_id"}
_TRACE_LIMIT = 2000
_QUIET = {"draining", "stopped"}


class Speech:
    """Turns the lines of one server into lines for people; `ready` is called once it is."""

    def __init__(self, project: Path, say: Say, ready: Callable[[], None], *, whole: bool, raw: bool) -> None:
        self._project = project
        self._say = say
        self._ready = ready
        self._whole = whole
        self._raw = raw
        self._trace: list[str] = []

    def hear(self, line: str) -> None:
        """One line, without its end."""
        event = _event(line)
        if event is not None and event["message"] == "ready":
            self._ready()
        if self._raw:
            self._say("plain", line)
        elif event is not None:
            self.end()
            self._tell(event)
        elif self._trace or line == BEGIN:
            self._collect(line)
        else:
            self._say("plain", line)

    def end(self) -> None:
        """Show a traceback that has come so far."""
        if self._trace:
            lines, self._trace = self._trace, []
            self._show(lines)

    def _collect(self, line: str) -> None:
        """A traceback ends with its first line that is not indented."""
        if line == BEGIN:
            self.end()
        self._trace.append(line)
        if line != BEGIN and (not line.startswith(" ") or len(self._trace) > _TRACE_LIMIT):
            self.end()

    def _show(self, lines: list[str]) -> None:
        for line in readable(parse(lines), self._project, whole=self._whole):
            self._say("dim" if line.startswith("  (") else "bad", line)

    def _tell(self, event: dict[str, Any]) -> None:
        message = event["message"]
        if message == "request":
            status = int(event.get("status", 0))
            self._say(_kind_of(status), _request(event, status))
            return
        if message == "ready" or message in _QUIET:
            return
        rest = "".join(f"  {name}: {value}" for name, value in event.items() if name not in _KNOWN)
        kind = "bad" if event.get("level") in ("warning", "error") else "plain"
        self._say(kind, f"{_clock(event)}  {message}{rest}")
        for part in _parts(str(event.get("traceback", ""))):
            self._show(part)


def _event(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("message"), str) and "level" in value else None


def _request(event: dict[str, Any], status: int) -> str:
    milliseconds = float(event.get("seconds", 0)) * 1000
    return (
        f"{_clock(event)}  {status}  {event.get('method', ''):<6} {event.get('route', ''):<24} {milliseconds:8.1f} ms"
    )


def _kind_of(status: int) -> str:
    return "plain" if status < 400 else "bad"


def _clock(event: dict[str, Any]) -> str:
    """The time of day, here; the log has it in UTC."""
    try:
        return datetime.fromisoformat(str(event.get("time", ""))).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"


def _parts(text: str) -> list[list[str]]:
    """The tracebacks of a chain, the first cause first."""
    parts: list[list[str]] = []
    for line in text.splitlines():
        if line == BEGIN:
            parts.append([])
        elif parts and (line or parts[-1]):
            parts[-1].append(line)
    return parts
