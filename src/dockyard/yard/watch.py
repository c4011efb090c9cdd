"""Seeing one container to its end: waits for it, asks it now and then whether it lives, and tells why it ended.

Pure observation; `fleet` acts on what this returns. An engine that does not answer is no end: it is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from dockyard.engines.base import Container, Engine
from dockyard.engines.launch import last_lines
from dockyard.engines.probe import probe
from dockyard.errors import ContainerNotFoundError, EngineError
from dockyard.spec.deployment import Probes

ENGINE_PAUSE_S = 1.0
_SIGNALLED = range(129, 129 + 64)
"""128 and the number of a signal. Docker says 255 of those that a restart of the machine ended."""


@dataclass(frozen=True)
class Ended:
    """Why a container is no longer good for anything: in words, and in one word for programs.

    `kind`: exit, memory, liveness, gone; start, image, engine when it was never there. `log`: the last lines that it
    wrote. Programs read these words in `spec.status`.
    """

    what: str
    kind: str
    log: str = ""


async def watch(engine: Engine, container: Container, probes: Probes, awake: Callable[[], bool]) -> Ended:
    """Return once the container has ended or hangs. It is asked only while it is `awake`."""
    ending = asyncio.ensure_future(_end(engine, container))
    hanging = asyncio.ensure_future(_hang(container, probes, awake))
    try:
        await asyncio.wait({ending, hanging}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            return ending.result()
        return Ended(hanging.result(), "liveness", await last_lines(engine, container.id))
    finally:
        for task in (ending, hanging):
            task.cancel()
        await asyncio.gather(ending, hanging, return_exceptions=True)


async def _end(engine: Engine, container: Container) -> Ended:
    while True:
        try:
            await engine.wait(container.id)
            return await ended(engine, container)
        except ContainerNotFoundError:
            return Ended("was removed by somebody else", "gone")
        except EngineError:
            await asyncio.sleep(ENGINE_PAUSE_S)


async def ended(engine: Engine, container: Container) -> Ended:
    """How a container that has ended came to its end."""
    try:
        now = await engine.inspect(container.id)
    except ContainerNotFoundError:
        return Ended("was removed by somebody else", "gone")
    log = await last_lines(engine, container.id)
    if now.oom_killed:
        return Ended("was killed by the kernel: it had used all the memory that it may", "memory", log)
    code = now.exit_code
    if code is None:
        return Ended("ended, nobody knows how", "exit", log)
    how = f"was killed by signal {code - 128}" if code in _SIGNALLED else f"ended with exit code {code}"
    return Ended(how, "exit", log)


async def _hang(container: Container, probes: Probes, awake: Callable[[], bool]) -> str:
    """Ask every `live_every_s`; return, saying why, once so many answers in a row were not good."""
    failures = 0
    while container.address is not None:
        await asyncio.sleep(probes.live_every_s)
        if not awake():
            failures = 0
            continue
        answer = await probe(container.address, probes.live_path, probes.live_timeout_s)
        failures = 0 if answer.ok else failures + 1
        if failures >= probes.live_failures:
            return f"hangs: {failures} times in a row {probes.live_path} {answer.reason}"
    return await asyncio.Future[str]()
