"""The gateway: Envoy, its configuration and its process, as one thing that the yard speaks to.

Started, or adopted from an owner that is gone; told snapshots; started again when it ends. What was accepted last is on
disk twice: as a snapshot, from which the next owner goes on, and as a configuration that stands alone
(`envoy --disable-hot-restart -c last-good.pb`). Called by the yard through `base.Gateway`; `cli.compose` makes one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from dockyard.errors import DockyardError, GatewayError, PortTakenError
from dockyard.gateway.admin import Admin
from dockyard.gateway.ads import Ads
from dockyard.gateway.base import Counts, GatewaySettings
from dockyard.gateway.bootstrap import ADMIN_SOCKET, ADS_SOCKET, ads_bootstrap, static_bootstrap
from dockyard.gateway.listener import ACCESS_LOG
from dockyard.gateway.process import LOG, Process, node_of
from dockyard.gateway.rotation import Rotation
from dockyard.gateway.snapshot import PATH_LIMIT, SNAPSHOT, Snapshot
from dockyard.oci.files import exclusive, replace_file, store_errors

LAST_GOOD = "last-good.pb"
_BOOTSTRAP = "bootstrap.json"
_START_DEADLINE_S = 10.0
_STOP_DEADLINE_S = 10.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5  # an Envoy that cannot stay costs a tenth of a core then; one that can is back within a second
_HEALTHY_AFTER_S = 5.0
_LOG_CHECK_S = 5.0
_LOCK_PATIENCE_S = 1.0
_SAMPLE_S = 0.05
_CALM_SAMPLES = 2
_PORT_TRIES = 20
_SPREAD_TRIES = 20
_ENVOY_LOG_BYTES = 16 << 20
_LOG = logging.getLogger(__name__)


class EnvoyGateway:
    """Implements `base.Gateway`. Made by `start`; `tell` hears, in words, what happens to it between calls."""

    def __init__(self, settings: GatewaySettings, tell: Callable[[str], None] = _LOG.warning) -> None:
        self._settings = settings
        self._folder = settings.folder
        self._tell = tell
        self._admin = Admin(settings.folder / ADMIN_SOCKET)
        self._held = contextlib.ExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._bootstrap = _as_json(ads_bootstrap(settings))
        self._ads = Ads(settings.folder / ADS_SOCKET, settings)
        self._running: Process | None = None
        self._former: Process | None = None
        self._closed = False

    @classmethod
    async def start(cls, settings: GatewaySettings, tell: Callable[[str], None] = _LOG.warning) -> EnvoyGateway:
        """Adopt the Envoy that runs in this folder, or start one; return when it serves what was accepted last.

        An Envoy of another version, or with other settings, is replaced without a gap. PortTakenError when something
        else listens on the port; StoreError when the folder cannot be used, or another process has it.
        """
        gateway = cls(settings, tell)
        try:
            await gateway._begin()
        except BaseException:
            await gateway.close()
            raise
        return gateway

    @property
    def address(self) -> str:
        """`http://HOST:PORT`."""
        host = self._settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._settings.port}"

    @property
    def access_log(self) -> Path:
        """See `base.Gateway`."""
        return self._folder / ACCESS_LOG

    @property
    def accepted(self) -> Snapshot | None:
        """What it routes."""
        return self._ads.accepted

    @property
    def pid(self) -> int:
        """Envoy's process id, for people."""
        return self._process.record.pid

    async def apply(self, snapshot: Snapshot) -> None:
        """See `base.Gateway`."""
        before = self._ads.accepted
        if before is None or before.version != snapshot.version:
            await self._ads.publish(snapshot)
        if before is None or before.version != snapshot.version or not (self._folder / LAST_GOOD).exists():
            await asyncio.to_thread(self._keep, snapshot)

    async def counts(self) -> Mapping[str, Counts]:
        """See `base.Gateway`."""
        return await self._admin.counts()

    async def drained(self, endpoints: Collection[str], deadline_s: float) -> Mapping[str, int]:
        """See `base.Gateway`. Asked twice in a row: a request on its way to a connection is not counted."""
        clock = asyncio.get_running_loop().time
        deadline, calm = clock() + deadline_s, 0
        while True:
            counts = await self._admin.counts()
            busy = {name: counts[name].in_flight for name in endpoints if name in counts and counts[name].in_flight}
            calm = 0 if busy else calm + 1
            if calm == _CALM_SAMPLES or clock() >= deadline:
                return busy
            await asyncio.sleep(_SAMPLE_S)

    async def metrics(self) -> str:
        """See `base.Gateway`."""
        return await self._admin.metrics()

    async def close(self) -> None:
        """See `base.Gateway`."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._ads.close()
        for process in (self._running, self._former):
            if process is not None:
                process.let_go()
        self._held.close()

    async def stop(self) -> None:
        """See `base.Gateway`."""
        if self._closed:
            return
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(GatewayError):
            await self._admin.drain()
            counts = await self._admin.counts()
            await self.drained(counts.keys(), _STOP_DEADLINE_S)
        for process in (self._running, self._former):
            if process is not None:
                await _end(process)
        await self.close()

    async def _begin(self) -> None:
        folder = self._folder
        _prepare(folder)
        self._held.enter_context(exclusive(folder / "lock", _LOCK_PATIENCE_S))
        running = Process.found(folder)
        last = self._last()
        if running is None:
            await _free(self._settings.host, self._settings.port)
            last = last or Snapshot()
        replace_file(folder / _BOOTSTRAP, self._bootstrap, folder)
        await self._ads.start(last)
        if running is not None and running.fits(self._digest):
            self._follow(running)
            await self._serving()
        else:
            await self._succeed(running)
        self._process.keep(folder)
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._tend_logs())]

    async def _succeed(self, former: Process | None) -> None:
        """Start an Envoy that takes over from the former one, if there is one; that stays when it cannot."""
        self._former = former
        self._follow(self._launch(former))
        try:
            await self._serving()
        except BaseException:
            self._process.send(signal.SIGKILL)
            if former is not None:
                former.keep(self._folder)
            raise

    @property
    def _process(self) -> Process:
        assert self._running is not None
        return self._running

    @property
    def _digest(self) -> str:
        return hashlib.sha256(self._bootstrap).hexdigest()[:16] + f"-{self._settings.workers}"

    def _launch(self, after: Process | None = None) -> Process:
        config = self._folder / _BOOTSTRAP
        record = after.record if after is not None else None
        return Process.started(self._folder, config, self._digest, self._settings.workers, record)

    def _follow(self, process: Process) -> None:
        self._running = process
        self._ads.awaited = node_of(process.record.epoch)

    async def _serving(self) -> None:
        """Wait until Envoy has accepted its configuration; the reason when it ends instead."""
        ended = asyncio.create_task(self._process.ended())
        settled = asyncio.create_task(self._ads.settled(_START_DEADLINE_S))
        try:
            await asyncio.wait({ended, settled}, return_when=asyncio.FIRST_COMPLETED)
            if not settled.done():
                raise GatewayError(
                    "Envoy ended while it was starting",
                    detail=_tail(self._folder / LOG),
                    remedy="If the lines above name no cause, please report them.",
                )
            settled.result()
        finally:
            for task in (ended, settled):
                task.cancel()
            await asyncio.gather(ended, settled, return_exceptions=True)
        await self._spread()

    async def _spread(self) -> None:
        """Its threads begin a moment after it has accepted its configuration."""
        for _ in range(_SPREAD_TRIES):
            if self._process.spread(self._settings.workers):
                return
            await asyncio.sleep(_SAMPLE_S)

    async def _supervise(self) -> None:
        """Start it again when it ends: at once, and after growing pauses when it ends again and again."""
        clock, pause = asyncio.get_running_loop().time, 0.0
        while True:
            began = clock()
            await self._process.ended()
            self._tell(f"the gateway's Envoy (process {self.pid}) has ended; it is started again")
            pause = 0.0 if clock() - began > _HEALTHY_AFTER_S else min(max(pause * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            await asyncio.sleep(pause)
            await self._revive()

    async def _revive(self) -> None:
        if self._former is not None:
            await _end(self._former)
            self._former.let_go()
            self._former = None
        try:
            process = self._launch()
        except DockyardError as error:
            self._tell(str(error))
            return
        self._process.let_go()
        self._follow(process)
        try:
            await self._serving()
            process.keep(self._folder)
        except DockyardError as error:
            self._tell(str(error))
            process.send(signal.SIGKILL)

    async def _tend_logs(self) -> None:
        """Keep the logs within their bounds."""
        limits = self._settings.limits
        access = Rotation(
            self.access_log, self._admin.reopen_logs, max_bytes=limits.access_log_bytes, files=limits.access_log_files
        )
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            await access.rotate()
            with contextlib.suppress(OSError):
                if (self._folder / LOG).stat().st_size > _ENVOY_LOG_BYTES:
                    os.truncate(self._folder / LOG, 0)

    def _last(self) -> Snapshot | None:
        try:
            return Snapshot.from_json((self._folder / SNAPSHOT).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, GatewayError) as error:
            self._tell(f"{self._folder / SNAPSHOT} is left aside: {error}")
            return None

    def _keep(self, snapshot: Snapshot) -> None:
        alone = static_bootstrap(self._settings, snapshot).SerializeToString(deterministic=True)
        replace_file(self._folder / SNAPSHOT, snapshot.to_json(), self._folder)
        replace_file(self._folder / LAST_GOOD, alone, self._folder)


def _prepare(folder: Path) -> None:
    if not folder.is_absolute() or len(str(folder / ADMIN_SOCKET).encode()) > PATH_LIMIT:
        raise GatewayError(
            f"{folder} cannot be the gateway's folder: its sockets need absolute paths of at most {PATH_LIMIT} bytes",
            remedy="Choose a shorter one: DOCKYARD_HOME sets it.",
        )
    with store_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)


async def _free(host: str, port: int) -> None:
    """Wait a moment until nobody listens there: the sockets of a killed Envoy outlive it by some milliseconds."""
    for left in reversed(range(_PORT_TRIES)):
        try:
            _check_port(host, port)
        except PortTakenError:
            if not left:
                raise
            await asyncio.sleep(_SAMPLE_S)
        else:
            return


def _check_port(host: str, port: int) -> None:
    """PortTakenError when somebody listens there. Asked first, for two Envoys may share a port without a word."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTakenError(
                    f"port {port} on {host}, where the gateway should listen, is in use by another program",
                    remedy=f"Choose another port, or stop what uses it (`ss -ltnp 'sport = :{port}'` shows it).",
                ) from error
            raise GatewayError(
                f"the gateway cannot listen on {host} port {port}: {error.strerror}",
                remedy="Choose an address of this machine, and a port from 1024 on unless this runs as root.",
            ) from error


async def _end(process: Process) -> None:
    """SIGTERM, and SIGKILL to one that does not heed it."""
    process.send(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_DEADLINE_S):
            await process.ended()
    except TimeoutError:
        process.send(signal.SIGKILL)
        await process.ended()


def _as_json(message: Message) -> bytes:
    return MessageToJson(message, preserving_proto_field_name=True).encode()


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text("utf-8", "replace").splitlines()[-8:])
    return ""
