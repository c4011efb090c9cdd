"""How verbs show things to people: tables, ages, states in colour, and texts of others without control characters.

What replicas, users and other machines wrote may hold anything: `cell` shows it as it is, without its effects.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dockyard.cli.plain import plain

_WIDTH = 160
_GOOD = {"healthy", "ready", "active", "done"}
_BAD = {"failed", "crashed", "degraded", "error", "refused", "aborted"}
_MOVING = {"rolling out", "starting", "switching", "preview", "draining", "aborting", "pending", "deleting", "warning"}
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def console(*, stderr: bool = False) -> Console:
    """A console; where nobody looks, one that is wide enough for programs that cut columns."""
    file = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if file.isatty() else _WIDTH)


def table(*titles: str, right: Iterable[str] = (), fold: Iterable[str] = ()) -> Table:
    """A table without lines; `right` columns are numbers, `fold` ones may take several lines."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    numbers, texts = set(right), set(fold)
    for title in titles:
        made.add_column(
            title, justify="right" if title in numbers else "left", no_wrap=title not in texts, overflow="fold"
        )
    return made


def cell(text: object, style: str = "") -> Text:
    """A text of others as it is: no markup, no control characters."""
    return Text(plain(str(text)), style=style)


def state(text: str) -> Text:
    """A state or phase in its colour."""
    style = "green" if text in _GOOD else "red" if text in _BAD else "yellow" if text in _MOVING else "dim"
    return cell(text, style)


def span(seconds: float) -> str:
    """A time that has passed, in the largest unit that says something: `3 min`."""
    whole = max(0, int(seconds))
    for unit, length in _UNITS:
        if whole >= 2 * length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def ago(at: float | None) -> str:
    """How long ago a time was; empty for none."""
    return "" if at is None else span(time.time() - at)


def moment(at: float) -> str:
    """A time as it is here: `2026-03-01 14:05:09`."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def short_image(image: str) -> str:
    """`iris:2@sha256:0123...` with as much of the digest as people compare."""
    name, at, digest = image.partition("@")
    return f"{name}@{digest.removeprefix('sha256:')[:12]}" if at else name


def number(value: float | None, unit: str = "", digits: int = 1) -> str:
    """A measured number, or a dash where nobody measured."""
    return "-" if value is None else f"{value:,.{digits}f}{unit}"
