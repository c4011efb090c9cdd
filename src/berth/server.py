"""The life of a server, from the configuration to the exit code: listen, load, serve, drain.

`serve` reads like its runbook. `__main__` calls it; everything it starts is in the modules that it names.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

import berth
from berth import memory
from berth.accepting import Acceptor
from berth.answers import Answers
from berth.application import Application
from berth.config import Config
from berth.exchange import RUN
from berth.files import File
from berth.health import Health, State
from berth.http import Connection
from berth.http_server import Server
from berth.info import Info
from berth.listeners import Listeners, open_listeners
from berth.loading import Loader, fork_template
from berth.log import Log
from berth.metrics import Metrics
from berth.protocols.site import Site, mount
from berth.repository import Repository
from berth.tracing import Tracer
from berth.upgrade import Upgrade

if TYPE_CHECKING:
    from berth.otlp import Exporter
    from berth.workers.template import Template

TICK_S = 0.5
QUIET_S = 0.25  # how long a draining server goes on accepting, so that nobody is refused who had not heard yet
LAST_ACCEPTS_S = 0.05  # and how long it then accepts those whose connections are complete
# Requests are freed by reference counts; the collector's default would search for cycles all the time.
GC_THRESHOLDS = (20_000, 20, 50)
SWITCH_S = 0.001  # after which a thread that computes pure Python gives way; Python waits five times as long
_POLL_S = 0.02


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Raises what `load` raises."""
    signal.signal(signal.SIGTERM, _stop_while_loading)
    File.max_pixels = config.limits.max_pixels
    template = fork_template(config.models)
    listeners = open_listeners(config.listen)
    log = Log(config.log_level, prefix=RUN)
    log.start()
    sys.setswitchinterval(SWITCH_S)
    exporter = _start_exporter(config, log)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(config, listeners, _Outside(log, template, exporter)))
    except BaseException:
        listeners.close()
        raise
    finally:
        if template is not None:
            template.close()
        if exporter is not None:
            exporter.close()
        log.close()


class _Outside(msgspec.Struct, frozen=True):
    """What has threads or processes of its own, and so is made before the event loop and ended after it."""

    log: Log
    template: Template | None = None
    exporter: Exporter | None = None


class _Parts(msgspec.Struct, frozen=True):
    """What one server is made of."""

    health: Health
    metrics: Metrics
    log: Log
    repository: Repository
    loader: Loader
    application: Application
    answers: Answers
    site: Site
    settling: memory.Settling = msgspec.field(default_factory=memory.Settling)

    @property
    def in_flight(self) -> int:
        """How many requests the models still owe an answer."""
        return sum(served.in_flight for served in self.repository)

    def tick(self) -> None:
        """Twice a second: count what was collected, begin a new second of the log, look after models and memory."""
        self.metrics.fold()
        self.log.tick()
        for served in self.repository:
            served.look()
        self.settling.look(self.metrics.successes, self.in_flight)


def _start_exporter(config: Config, log: Log) -> Exporter | None:
    """What sends traces, if the environment wants any."""
    settings = config.tracing
    for problem in settings.problems:
        log.event("warning", "tracing", reason=problem)
    if not settings.endpoint:
        return None
    resource = {
        "service.name": settings.service or config.model.name,
        "service.version": config.model.version,
        "service.instance.id": RUN,
        "telemetry.sdk.name": "berth",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": berth.__version__,
    }
    if config.image_digest:
        resource["oci.manifest.digest"] = config.image_digest
    otlp = importlib.import_module("berth.otlp")  # it brings an HTTP client, for which nobody else should pay
    exporter: Exporter = otlp.Exporter(settings, resource, log.event)
    exporter.start()
    return exporter


async def _serve(config: Config, listeners: Listeners, outside: _Outside) -> int:
    loop, log = asyncio.get_running_loop(), outside.log
    parts = _assemble(config, outside)
    await parts.loader.load_at_start()
    if config.selftest:
        await _selftest(config, parts)
    _settle_memory()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(parts.application, config.limits)
    parts.metrics.connections = server.connections.__len__
    server.take_over = Upgrade(server, log, functools.partial(_make_grpc, parts)).take_over
    accepting = [Acceptor(listener, functools.partial(Connection, server)) for listener in listeners.sockets]
    parts.health.state = State.READY
    if listeners.activation is not None:
        listeners.activation.ready()
    log.event("info", "ready", model=config.model.name, version=config.model.version, listeners=listeners.addresses)
    await _tick_until(stop, server, parts)
    code = await _drain(server, listeners, accepting, parts)
    await parts.loader.close(1.0)
    return code


def _assemble(config: Config, outside: _Outside) -> _Parts:
    metrics, health, repository = Metrics(config.image_digest), Health(), Repository()
    log, exporter = outside.log, outside.exporter
    tracer = None
    if exporter is not None:
        tracer, metrics.traces = Tracer(config.tracing, exporter.add), exporter.counts
    answers = Answers(metrics, log, tracer, Info(config.answer_info, config.image_digest))
    loader = Loader(config.models, repository, answers, metrics, log, outside.template)
    site = Site(config, repository, health, metrics, loader)
    application = Application(mount(site), answers, config.limits)
    loader.changed = application.forget
    health.why_dead = lambda: repository.why_dead
    health.why_unready = lambda: repository.why_unready
    return _Parts(health, metrics, log, repository, loader, application, answers, site)


async def _selftest(config: Config, parts: _Parts) -> None:
    """The goldens are the first model's; what is loaded later has been asked nothing."""
    if not config.model.at_start:
        parts.log.event("warning", "selftest skipped", model=config.model.name, reason="it is not loaded at the start")
        return
    served = parts.repository.find(config.model.name, config.model.version)
    # Only a server that is told to prove itself knows goldens.
    prove = importlib.import_module("berth.selftest").prove
    try:
        await prove(served, config.goldens, config.limits.request_timeout, parts.log.event)
    except BaseException:
        await parts.loader.close(0.0)
        raise


def _make_grpc(parts: _Parts, module: Any) -> Any:
    """The calls of gRPC, once the module is loaded; models that come and go are news for them too."""
    grpc = module.make_grpc(parts.site, parts.answers)

    def changed() -> None:
        parts.application.forget()
        grpc.forget()

    parts.loader.changed = changed
    return grpc


def _settle_memory() -> None:
    """What is loaded stays: the collector need not look at it again, and what loading needed is given back."""
    gc.collect()
    gc.freeze()
    memory.release()
    gc.set_threshold(*GC_THRESHOLDS)


async def _drain(server: Server, listeners: Listeners, accepting: Sequence[Acceptor], parts: _Parts) -> int:
    loop, log = asyncio.get_running_loop(), parts.log
    patience = server.limits.drain_timeout
    deadline = loop.time() + patience
    parts.health.state = State.DRAINING
    server.drain()
    log.event("info", "draining", in_flight=parts.in_flight, connections=len(server.connections))
    await asyncio.sleep(min(QUIET_S, patience))
    listeners.turn_away()
    await asyncio.sleep(min(LAST_ACCEPTS_S, patience))
    for acceptor in accepting:
        acceptor.close()
    listeners.close()
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
        due = perf_counter() + TICK_S
        try:
            async with asyncio.timeout(TICK_S):
                await stop.wait()
        except TimeoutError:
            parts.metrics.lag.observe(max(0.0, perf_counter() - due))


def _stop_while_loading(number: int, _: object) -> None:
    # Nothing is in flight yet, and a thread inside the user's load() cannot be asked to stop.
    sys.stderr.flush()
    os._exit(0 if number == signal.SIGTERM else 130)
