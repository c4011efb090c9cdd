"""Runs the few programs a build needs (apt, uv, the base image's Python): output caught, time bounded, no shell.

Called by `debian`, `wheels` and `bytecode`. A program that hangs or is missing becomes an error that says so.
"""

from __future__ import annotations

import contextlib
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


@dataclass(frozen=True)
class Started:
    """A program that runs and waits for what it is to read; `end` it, or `stop` it."""

    name: str
    process: subprocess.Popen[str]

    def end(self, stdin: str, deadline: float) -> Output:
        """Give it all that it reads, and wait within `deadline` seconds until it has ended."""
        try:
            stdout, stderr = self.process.communicate(stdin, timeout=deadline)
        except subprocess.TimeoutExpired as error:
            raise DockyardError(
                f"{self.name} did not finish within {deadline:.0f} s",
                remedy="Is the network or the mirror slow? Try again; what was fetched so far is kept.",
            ) from error
        finally:
            self.stop()
        return Output(self.process.returncode, stdout, stderr)

    def stop(self) -> None:
        """End it, unless it has ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def start(command: Sequence[str], *, environment: Mapping[str, str], missing: str = "") -> Started:
    """Start `command`; `missing` is the remedy if the program is not installed."""
    pipe = subprocess.PIPE
    try:
        return Started(
            command[0],
            subprocess.Popen(
                command, env=dict(environment), stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace"
            ),
        )
    except FileNotFoundError as error:
        raise DockyardError(f"the program {command[0]!r} was not found", remedy=missing) from error
    except OSError as error:
        raise DockyardError(f"{command[0]} cannot be run: {error.strerror}", remedy=missing) from error


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    deadline: float,
    stdin: str = "",
    missing: str = "",
) -> Output:
    """Run `command` to its end within `deadline` seconds; `missing` is the remedy if the program is not installed."""
    return start(command, environment=environment, missing=missing).end(stdin, deadline)
