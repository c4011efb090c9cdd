"""Running runc and the monitor: short programs, each with a deadline, their words turned into errors.

Called by `runc.engine` only. A program that does not end in time is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dockyard.engines.runc import monitor
from dockyard.errors import EngineError

DEADLINE = 30.0
_WORDS_LIMIT = 1 << 16
# One processor is enough for what runc does, and its Go runtime then takes a tenth less of them all.
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS": "1"}
_MONITOR = "import os, sys; sys.path.append(os.path.dirname(sys.argv[1])); import monitor; monitor.main()"
_NOTHING = asyncio.subprocess.DEVNULL


class Outcome(Enum):
    """How a start went, in the monitor's words."""

    STARTED = "started"
    NO_OVERLAY = "overlay"
    FAILED = "failed"


@dataclass(frozen=True)
class Started:
    """What the monitor says of a start. `process` is its first process, which ends at once; its streams stay."""

    outcome: Outcome
    reason: str
    process: asyncio.subprocess.Process


async def run(arguments: Sequence[str], deadline: float = DEADLINE) -> None:
    """Run a program to its end; EngineError, with its last words, when it fails or takes too long."""
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=_NOTHING, stdout=_NOTHING, stderr=asyncio.subprocess.PIPE, env=_ENVIRONMENT
    )
    try:
        async with asyncio.timeout(deadline):
            _, words = await process.communicate()
    except TimeoutError as error:
        raise EngineError(
            f"{Path(arguments[0]).name} did not end within {deadline:g} s",
            remedy="Look at the machine's load and its kernel log, then try again.",
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise EngineError(
            f"{Path(arguments[0]).name} failed with exit code {process.returncode}",
            detail=words[-_WORDS_LIMIT:].decode("utf-8", "replace").strip(),
            remedy="Its words say why.",
        )


async def start_monitor(bundle: Path, *, piped: bool, yielding: bool = False, deadline: float = DEADLINE) -> Started:
    """Start the monitor of a bundle, which detaches from us, and wait for its report.

    When `piped`, the container's standard streams are those of the returned process. When `yielding`, it gives way to
    what answers requests until it has started the container, as that does then.
    """
    stream = asyncio.subprocess.PIPE if piped else _NOTHING
    chrt = shutil.which("chrt", path=_ENVIRONMENT["PATH"]) if yielding else None
    ours, its = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *((chrt, "--idle", "0") if chrt else ()),
            sys.executable,
            *("-I", "-S", "-c", _MONITOR, monitor.__file__, str(bundle), str(its)),
            stdin=stream,
            stdout=stream,
            stderr=stream,
            env=_ENVIRONMENT,
            pass_fds=(its,),
            start_new_session=True,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(its)
    try:
        async with asyncio.timeout(deadline):
            line = await _read_line(ours)
    except TimeoutError as error:
        raise EngineError(
            f"runc did not start {bundle.name} within {deadline:g} s",
            remedy="Look at the machine's load and its kernel log, then try again.",
        ) from error
    outcome, _, reason = line.decode("utf-8", "replace").strip().partition(" ")
    if outcome in {"started", "overlay"}:
        return Started(Outcome(outcome), reason, process)
    return Started(Outcome.FAILED, reason or "the monitor ended without a word", process)


async def _read_line(descriptor: int) -> bytes:
    """Read the report and close the descriptor."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        return await reader.readline()
    finally:
        transport.close()


def words_of(log: Path) -> str:
    """The last error in runc's own log (JSON lines); empty when there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in {"error", "fatal"}:
            return str(entry.get("msg", ""))
    return ""
