"""Runs the few programs a build needs (apt, uv, the base image's Python): output caught, time bounded, no shell.

Called by `debian`, `wheels` and `bytecode`. A program that hangs or is missing becomes an error that says so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dockyard.errors import DockyardError


@dataclass(frozen=True)
class Output:
    """How a program ended: its exit code and what it printed."""

    code: int
    stdout: str
    stderr: str


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    deadline: float,
    stdin: str = "",
    missing: str = "",
) -> Output:
    """Run `command` to its end within `deadline` seconds; `missing` is the remedy if the program is not installed."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            env=dict(environment),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline,
            check=False,
        )
    except FileNotFoundError as error:
        raise DockyardError(f"the program {command[0]!r} was not found", remedy=missing) from error
    except OSError as error:
        raise DockyardError(f"{command[0]} cannot be run: {error.strerror}", remedy=missing) from error
    except subprocess.TimeoutExpired as error:
        raise DockyardError(
            f"{command[0]} did not finish within {deadline:.0f} s",
            remedy="Is the network or the mirror slow? Try again; what was fetched so far is kept.",
        ) from error
    return Output(done.returncode, done.stdout, done.stderr)
