"""Python tracebacks for the people who wrote the code: their own frames, each with its line of source, and the error.

Frames of libraries, of the server and of Python are counted and left out, unless there is no other. speech.py calls it
with the text that a child printed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

BEGIN = "Traceback (most recent call last):"
_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+)(?:, in (?P<name>.+))?$')
_MARKS = re.compile(r"^[\s~^]+$")
_FOREIGN = {"site-packages", "dist-packages", ".venv", "node_modules"}


@dataclass(frozen=True)
class Frame:
    """One step of a traceback; `source` are the lines that Python showed of it."""

    file: str
    line: int
    name: str
    source: tuple[str, ...]


@dataclass(frozen=True)
class Trace:
    """A traceback: its steps, and the error with its message."""

    frames: tuple[Frame, ...]
    error: str


def parse(lines: list[str]) -> Trace:
    """Read a traceback as Python prints it, with or without its first line."""
    frames: list[Frame] = []
    error: list[str] = []
    for line in lines:
        if line == BEGIN:
            continue
        if (found := _FRAME.match(line)) and not error:
            frames.append(Frame(found["file"], int(found["line"]), found["name"] or "", ()))
        elif line.startswith("    ") and frames and not error:
            last = frames[-1]
            if last.name and _MARKS.match(line):
                continue  # under what was running; in a SyntaxError it says where
            frames[-1] = Frame(last.file, last.line, last.name, (*last.source, line[4:]))
        elif not line.startswith("  [Previous line"):
            error.append(line)
    return Trace(tuple(frames), "\n".join(error).strip())


def readable(trace: Trace, project: Path, *, whole: bool = False) -> list[str]:
    """The lines to show: `file:line in name` with the source below, then the error, then what was left out."""
    own = [frame for frame in trace.frames if _is_own(frame.file, project)]
    shown = list(trace.frames) if whole or not own else own
    lines = []
    for frame in shown:
        file = Path(frame.file)
        place = file.relative_to(project) if _is_own(frame.file, project) else file
        lines.append(f"  {place}:{frame.line}" + (f" in {frame.name}" if frame.name else ""))
        lines.extend(f"      {source}" for source in frame.source)
    lines.extend(trace.error.splitlines())
    hidden = len(trace.frames) - len(shown)
    if hidden:
        lines.append(f"  ({hidden} frames outside the project are left out; --traceback shows them)")
    return lines


def _is_own(file: str, project: Path) -> bool:
    path = Path(file)
    return path.is_relative_to(project) and not _FOREIGN & set(path.relative_to(project).parts)
