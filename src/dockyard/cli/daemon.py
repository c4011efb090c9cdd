"""Running the yard without a terminal: in the background, or under systemd. Called by `up`."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import click

from dockyard.errors import DockyardError, YardError
from dockyard.oci.files import store_errors

READY_DEADLINE_S = 30.0
_POLL_S = 0.05
_ANSWER_S = 5.0
_KEPT = ("DOCKER_HOST",)
"""Variables that say where an engine is."""


def detach(log: Path, serve: Callable[[], None], ready: Path) -> None:
    """Run `serve` in a process of its own session that writes to `log`; return once it has made the socket `ready`.

    YardError, with what it wrote, when it ends before that or does not come so far in time.
    """
    with store_errors(log.parent):
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    begin, before = os.fstat(output).st_size, _identity(ready)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _become_daemon(output, serve)
    os.close(output)
    deadline = time.monotonic() + READY_DEADLINE_S
    while _identity(ready) in {None, before}:
        if os.waitpid(child, os.WNOHANG)[0] == child or time.monotonic() > deadline:
            raise YardError(
                "the yard did not come up", remedy=f"Its whole log is {log}.", detail=_since(log, begin)[-4000:]
            )
        time.sleep(_POLL_S)
    click.echo(_since(log, begin), nl=False, err=True)
    click.echo(f"  log       {log}", err=True)


def _become_daemon(output: int, serve: Callable[[], None]) -> None:
    """Never returns: this process is the yard from here on."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        serve()
        code = 0
    except DockyardError as error:
        click.echo(f"error: {error}", err=True)
    except BaseException:  # the log is the only place left to tell it
        traceback.print_exc()
    finally:
        os._exit(code)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _since(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode("utf-8", "replace")


class Manager:
    """systemd, if it started this process and waits to be told how it goes; otherwise nobody is told anything.

    What it left in the environment is taken out: runc would wait for a word of its container on the same socket.
    Sources: sd_notify(3), sd_watchdog_enabled(3).
    """

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        mine = os.environ.pop("WATCHDOG_PID", "") in {"", str(os.getpid())}
        self._watch_s = int(os.environ.pop("WATCHDOG_USEC", "0")) / 1e6 if mine else 0.0

    def tell(self, state: str) -> None:
        """Say how far this process is, such as `READY=1`."""
        if self._address:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK  # a manager that does not listen holds nobody up
            with suppress(OSError), socket.socket(socket.AF_UNIX, kind) as one:
                one.connect(self._address)
                one.send(state.encode())

    def host_stops(self) -> bool:
        """Whether it shuts the whole host down, and not this process alone. Source: systemctl(1)."""
        if not self._address:
            return False
        command = ["systemctl", "is-system-running"]
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
            return done.stdout.strip() == "stopping"
        return False

    async def keep_telling(self) -> None:
        """Say, twice in the time that the unit gives, that the event loop still turns: it ends what does not."""
        while self._watch_s:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._watch_s / 2)


def unit(words: Sequence[str], home: Path, environment: Mapping[str, str]) -> str:
    """A systemd unit that runs this command, on this home and with the same engines. Paths among `words` are whole."""
    program = shutil.which(words[0]) or words[0]
    command = [str(Path(program).absolute()), *words[1:]]
    kept = {"DOCKYARD_HOME": str(home)} | {name: environment[name] for name in _KEPT if environment.get(name)}
    variables = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in kept.items())
    return f"""[Unit]
Description=Dockyard: deployments of models on this host
After=network.target docker.service
Wants=network.target
StartLimitIntervalSec=0

[Service]
# The unit is active once the yard answers; one that no longer does anything is started anew.
Type=notify
WatchdogSec=60
TimeoutStartSec=300
ExecStart={" ".join(_quoted(word).replace("$", "$$") for word in command)}
{variables}# `dockyard down` ends it for good; whatever else ends it does not, however often.
Restart=on-failure
RestartSec=1
# Replicas and the gateway live in processes of their own and go on when the yard is stopped or upgraded. Whichever of
# them the kernel kills for memory, the yard brings back.
KillMode=process
OOMPolicy=continue
TasksMax=infinity
TimeoutStopSec=30

[Install]
WantedBy=multi-user.target
"""


def _quoted(word: str) -> str:
    """A word as systemd reads it back, whatever it contains. Sources: systemd.service(5), systemd.unit(5)."""
    plain = word.replace("%", "%%")
    if not plain or any(c in plain for c in " \t;\"'\\"):
        return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return plain
