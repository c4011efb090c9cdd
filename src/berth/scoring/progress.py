"""How far a batch is, on standard error: one line that is drawn again on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic

MODES = ("auto", "live", "lines", "none")
LIVE_S = 0.25
LINES_S = 10.0


class Progress:
    """Tells of rows. `rows` and `failed` are all so far, also those of earlier runs; `position` is the input's."""

    def __init__(self, mode: str, total: int | None, now: Callable[[], float] = monotonic) -> None:
        self._live = mode == "live" or (mode == "auto" and sys.stderr.isatty())
        self._quiet = mode == "none"
        self._total = total
        self._now = now
        self._drawn = False
        self._next = 0.0
        self.rows = self.failed = self.position = 0
        self.begin()

    def begin(self) -> None:
        """The first row is about to run: rates count from here."""
        self._began = self._now()
        self._first_row, self._first_position = self.rows, self.position
        self._next = self._began + (LIVE_S if self._live else LINES_S)

    def tell(self) -> None:
        """Say it, if it is time to."""
        now = self._now()
        if self._quiet or now < self._next:
            return
        self._next = now + (LIVE_S if self._live else LINES_S)
        if self._live:
            self._write(f"\r\x1b[K{self.text()}")
            self._drawn = True
        else:
            self._write(f"berth: {self.text()}\n")

    def say(self, text: str) -> None:
        """A line that stays."""
        self._write(f"{self._cleared()}berth: {text}\n")

    def text(self) -> str:
        """Rows, percent, failed, rows a second, and the time that is left where the end is known."""
        seconds = self._now() - self._began
        share = self.position / self._total if self._total else None
        parts = [f"{self.rows:,} rows" + ("" if share is None else f" ({share:.0%})"), f"{self.failed:,} failed"]
        if seconds > 0:
            parts.append(f"{_rate((self.rows - self._first_row) / seconds)} rows/s")
            moved = self.position - self._first_position
            if self._total and moved > 0 and self.position < self._total:
                parts.append(f"{_span(seconds * (self._total - self.position) / moved)} left")
        return ", ".join(parts)

    def _cleared(self) -> str:
        drawn, self._drawn = self._drawn, False
        return "\r\x1b[K" if drawn else ""

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
