"""Runs the few programs a build needs (apt, uv, the base image's Python): output caught, time bounded, no shell.

Called by `debian`, `wheels` and `bytecode`. A program that hangs or is missing becomes an error that says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dockyard.errors import DockyardError

_PIPE, _LARGE_PIPE = 1 << 16, 1 << 20  # bytes that a pipe holds by itself, and those that any user may have it hold


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
            raise _late(self.name, deadline) from error
        finally:
            self.stop()
        return Output(self.process.returncode, stdout, stderr)

    def ask(self, stdin: str) -> Asked:
        """Give it all that it reads, without waiting for what it says; `Asked.answer` does."""
        return Asked(self, stdin.encode())

    def stop(self) -> None:
        """End it, unless it has ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class Asked:
    """A program that works on what it was given, while whoever asked does something else."""

    def __init__(self, started: Started, stdin: bytes) -> None:
        self._started = started
        process = started.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout.fileno(), process.stderr.fileno()
        self._rest = memoryview(stdin)
        self._said: dict[int, bytes] = {self._stdout: b"", self._stderr: b""}
        self._selector = selectors.DefaultSelector()
        os.set_blocking(self._stdin.fileno(), False)
        if len(stdin) > _PIPE:
            with contextlib.suppress(OSError):  # a user may have so many large pipes
                fcntl.fcntl(self._stdin, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
        self._selector.register(self._stdin, selectors.EVENT_WRITE)
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._selector.register(self._stderr, selectors.EVENT_READ)
        self._give()

    def answer(self, deadline: float, is_whole: Callable[[bytes], bool]) -> Output:
        """What it has printed as soon as that `is_whole`, with code 0; else, within `deadline` seconds, how it ended.

        In the first case it may run still: `stop` it some time.
        """
        give_up = time.monotonic() + deadline
        while len(self._selector.get_map()):
            ready = self._selector.select(give_up - time.monotonic())
            if not ready and time.monotonic() >= give_up:
                self._started.stop()
                raise _late(self._started.name, deadline)
            for key, _ in ready:
                if key.fileobj is self._stdin:
                    self._give()
                else:
                    self._take(key.fd)
            if is_whole(self._said[self._stdout]):
                return self._output(0)
        try:
            return self._output(self._started.process.wait(max(give_up - time.monotonic(), 0.1)))
        except subprocess.TimeoutExpired as error:
            raise _late(self._started.name, deadline) from error
        finally:
            self._started.stop()

    def close(self) -> None:
        """Wait for no answer any more."""
        self._selector.close()

    def _give(self) -> None:
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._stdin.fileno(), self._rest) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            pass  # how it ended tells more
        self._selector.unregister(self._stdin)
        self._stdin.close()

    def _take(self, descriptor: int) -> None:
        said = os.read(descriptor, _PIPE)
        if not said:
            self._selector.unregister(descriptor)
        self._said[descriptor] += said

    def _output(self, code: int) -> Output:
        return Output(code, *(said.decode("utf-8", "replace") for said in self._said.values()))


def _late(name: str, deadline: float) -> DockyardError:
    return DockyardError(
        f"{name} did not finish within {deadline:.0f} s",
        remedy="Is the network or the mirror slow? Try again; what was fetched so far is kept.",
    )


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
