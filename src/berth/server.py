"""The life of a server, from the environment to the exit code: listen, load, serve, drain.

`serve` reads like its runbook. `__main__` calls it; everything it starts is in the modules that it names.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from berth import memory
from berth.activation import Activation, activate
from berth.answers import RUN, Answers
from berth.application import Application, Face
from berth.async_executor import AsyncExecutor
from berth.config import Config, ListenSettings
from berth.errors import ConfigError
from berth.executor import ThreadExecutor
from berth.health import Health, State
from berth.http import Connection, Server
from berth.log import Log
from berth.metrics import Metrics
from berth.model import Model, load_model
from berth.predictors import find_predictor, kind_of
from berth.protocols.native import Native
from berth.protocols.openapi import OpenApi
from berth.protocols.probes import Probes
from berth.protocols.v2 import V2
from berth.repository import Repository
from berth.served import ServedModel

BACKLOG = 2048
TICK_S = 0.5
QUIET_S = 0.25  # how long a draining server goes on accepting, so that nobody is refused who had not heard yet
GC_THRESHOLDS = (
    20_000,
    20,
    50,
)  # requests are freed by reference counts; the default would search for cycles all the time
_POLL_S = 0.02


LocalExecutor = ThreadExecutor | AsyncExecutor


@dataclass(frozen=True)
class Listeners:
    """The sockets to serve on; `activation` is who handed them over, if somebody did."""

    sockets: tuple[socket.socket, ...]
    activation: Activation | None
    addresses: tuple[str, ...]


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises what `load` raises."""
    signal.signal(signal.SIGTERM, _stop_while_loading)
    listeners = open_listeners(config.listen)
    try:
        executor, model = _load(config)
    except BaseException:
        for listener in listeners.sockets:
            listener.close()
        raise
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not look at it again
    memory.release()
    gc.set_threshold(*GC_THRESHOLDS)
    log = Log(config.log_level, prefix=RUN)
    log.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(config, model, executor, listeners, log))
    finally:
        log.close()


def open_listeners(settings: ListenSettings) -> Listeners:
    """Take the listeners that an engine offers, or bind our own; ConfigError when an address cannot be had."""
    activation = activate(settings.activation)
    if activation is not None:
        names = tuple(f"activated:{index}" for index in range(len(activation.listeners)))
        return Listeners(activation.listeners, activation, names)
    if settings.socket:
        return Listeners((_bind_unix(settings.socket),), None, (f"unix:{settings.socket}",))
    return Listeners((_bind_tcp(settings.host, settings.port),), None, (f"http://{settings.host}:{settings.port}",))


@dataclass(frozen=True)
class _Parts:
    """What one server is made of."""

    health: Health
    metrics: Metrics
    log: Log
    repository: Repository

    @property
    def in_flight(self) -> int:
        """How many requests the models still owe an answer."""
        return sum(served.in_flight for served in self.repository)

    def tick(self) -> None:
        """Twice a second: count what was collected, begin a new second of the log."""
        self.metrics.fold()
        self.log.tick()


def _load(config: Config) -> tuple[LocalExecutor, Model]:
    """The model, and the executor that it was loaded in."""
    if config.model.predictor and kind_of(find_predictor(config.model.predictor).predict).asynchronous:
        asynchronous = AsyncExecutor(config.limits.max_concurrency)
        return asynchronous, asynchronous.load(lambda: load_model(config.model, asynchronous.wait))
    thread = ThreadExecutor()
    return thread, thread.load(lambda: load_model(config.model))


async def _serve(config: Config, model: Model, executor: LocalExecutor, listeners: Listeners, log: Log) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    parts = _Parts(Health(), Metrics(), log, Repository())
    server = Server(_application(config, model, executor, parts), config.limits)
    accepting = [await _accept(server, listener) for listener in listeners.sockets]
    parts.health.state = State.READY
    if listeners.activation is not None:
        listeners.activation.ready()
    log.event("info", "ready", model=config.model.name, version=config.model.version, listeners=listeners.addresses)
    await _tick_until(stop, server, parts)
    return await _drain(server, accepting, parts)


async def _drain(server: Server, accepting: Sequence[asyncio.Server], parts: _Parts) -> int:
    loop, log = asyncio.get_running_loop(), parts.log
    patience = server.limits.drain_timeout
    deadline = loop.time() + patience
    parts.health.state, server.draining = State.DRAINING, True
    log.event("info", "draining", in_flight=parts.in_flight, connections=len(server.connections))
    await asyncio.sleep(min(QUIET_S, patience))
    for listener in accepting:
        listener.close()
    while server.connections and loop.time() < deadline:
        server.close_idle()
        server.tick(loop.time())
        await asyncio.sleep(_POLL_S)
    abandoned = parts.in_flight
    server.abort_all()
    await asyncio.sleep(0)  # connections that were aborted are told so on the next turn
    if abandoned:
        log.event("error", "stopped with requests in flight", abandoned=abandoned, drain_timeout=patience)
        return 1
    log.event("info", "stopped")
    return 0


async def _tick_until(stop: asyncio.Event, server: Server, parts: _Parts) -> None:
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        server.tick(loop.time())
        parts.tick()
        try:
            async with asyncio.timeout(TICK_S):
                await stop.wait()
        except TimeoutError:
            continue


def _application(config: Config, model: Model, executor: LocalExecutor, parts: _Parts) -> Application:
    answers = Answers(parts.metrics, parts.log)
    executor.attach()
    identity = (config.model.name, config.model.version)
    served = ServedModel(identity, model, executor, answers, parts.metrics.of(*identity), config.limits)
    repository = parts.repository
    repository.add(served)
    faces: list[Face] = [
        Native(repository),
        V2(repository, parts.health),
        Probes(parts.health, parts.metrics),
        OpenApi(repository, config.model),
    ]
    return Application(faces, answers, config.limits.max_body_bytes)


async def _accept(server: Server, listener: socket.socket) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    if listener.family == socket.AF_UNIX:
        return await loop.create_unix_server(lambda: Connection(server), sock=listener, backlog=BACKLOG)
    return await loop.create_server(lambda: Connection(server), sock=listener, backlog=BACKLOG)


def _bind_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"BERTH_HOST, BERTH_PORT: cannot listen on {host} port {port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def _bind_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if stat.S_ISSOCK(Path(path).stat().st_mode):
            Path(path).unlink()  # left behind by a server that was killed
    except FileNotFoundError:
        pass
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ConfigError(f"BERTH_SOCKET: cannot listen on {path}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def _stop_while_loading(number: int, _: object) -> None:
    # Nothing is in flight yet, and a thread inside the user's load() cannot be asked to stop.
    sys.stderr.flush()
    os._exit(0 if number == signal.SIGTERM else 130)
