"""The start of a server on any engine, as a runbook: sockets, container, hand-over, ready.

`launch_alone` is for `dockyard run`: the container owns its sockets. `launch` is for whoever keeps a replica's listener
and starts one container after the other on it, and for foreign servers, which listen on a port of their own. Both
return a container that serves, or raise and leave nothing behind that was not there before. That holds for Ctrl-C too.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from dockyard.engines.base import Container, ContainerSpec, Engine, Owner, Sockets, TcpAddress
from dockyard.engines.probe import probe
from dockyard.engines.removal import remove_surely
from dockyard.engines.sockets import Activation, Listener
from dockyard.engines.weight import Weight, rise, weigh
from dockyard.errors import DockyardError, EngineError, StartError

READY_DEADLINE = 120.0
READY_PATH = "/v2/health/ready"
LOG_LINES = 20
IMAGE_DIGEST = "BERTH_IMAGE_DIGEST"  # no image can hold its own, so whoever starts one says it
YIELDING_SHARE = 0.25
"""Of a start's deadline: for how long it may yield to others."""
_LAST_WORDS = 2.0
_PROBE_DEADLINE = 2.0
_PROBE_EVERY = 0.1


async def launch_alone(
    engine: Engine,
    spec: ContainerSpec,
    *,
    runtime_folder: Path,
    publish: int | None = None,
    deadline: float = READY_DEADLINE,
) -> Container:
    """Start `spec` and return when it is ready to answer on `container.socket` (and on 127.0.0.1:`publish`).

    Its sockets go to a new folder in `runtime_folder`, an absolute path; `engine.remove` removes it. PortTakenError
    when the port is in use; else what `launch` raises.
    """
    with Listener.bind(runtime_folder / f"{spec.name}-{secrets.token_hex(3)}", publish) as listener:
        return await _launch_on(engine, spec, listener, Owner.CONTAINER, deadline)


async def launch(
    engine: Engine,
    spec: ContainerSpec,
    listener: Listener | None = None,
    *,
    ready_path: str = READY_PATH,
    deadline: float = READY_DEADLINE,
    yielding: asyncio.Event | None = None,
) -> Container:
    """Start `spec` and return when it is ready to answer at `container.address`.

    On `listener`, which stays open and the caller's, whatever happens: connections that came before wait for this
    container. Without one, `spec.tcp_port` names where a foreign server listens: it is ready once it answers
    `ready_path` with 200. `yielding`: until it is ready, this is set, or a quarter of the deadline has passed, it takes
    the processor time that its siblings leave, and gets next to nothing of a full host for its first two seconds.
    StartError, with the end of the log, when it ends or is not ready after `deadline` seconds; what `start` raises.
    """
    if listener is not None:
        return await _launch_on(engine, spec, listener, Owner.LISTENER, deadline, yielding=yielding)
    if not spec.tcp_port:
        raise EngineError(
            f"container {spec.name} has neither a listener nor a port, so nobody could ask it anything",
            remedy="Give a listener to an image of Dockyard's, and the port of its server to any other image.",
        )
    container = await engine.start(replace(spec, yielding=yielding is not None))
    getting_ready = _answering(engine, container, ready_path)
    return await _proven(engine, container, getting_ready, deadline, yielding=yielding)


async def _launch_on(
    engine: Engine,
    spec: ContainerSpec,
    listener: Listener,
    owner: Owner,
    deadline: float,
    *,
    yielding: asyncio.Event | None = None,
) -> Container:
    environment = {IMAGE_DIGEST: str(spec.image.digest), **spec.environment}
    sockets = Sockets(listener.folder, listener.ports, owner)
    with Activation(listener) as activation:
        told = replace(spec, environment=environment, sockets=sockets, yielding=yielding is not None)
        container = await engine.start(told)
        return await _proven(engine, container, _activate(activation), deadline, yielding=yielding)


async def _proven(
    engine: Engine,
    container: Container,
    getting_ready: Coroutine[Any, Any, None],
    deadline: float,
    *,
    yielding: asyncio.Event | None,
) -> Container:
    """The container, once it is ready; it is removed when it does not become so."""
    try:
        with _yielding(container, deadline * YIELDING_SHARE, yielding) if yielding else nullcontext():
            await _until_ready(engine, container, getting_ready, deadline)
    except BaseException:
        await remove_surely(engine, container.id)
        raise
    return container


@contextmanager
def _yielding(container: Container, patience: float, enough: asyncio.Event) -> Iterator[None]:
    """A low weight in the block, until it is `enough` or patience ends: on a host that is busy it must start too."""
    rising = asyncio.ensure_future(rise(container, patience, enough))
    try:
        yield
    finally:
        rising.cancel()
        weigh(container, Weight.FULL)


async def _until_ready(
    engine: Engine, container: Container, getting_ready: Coroutine[Any, Any, None], deadline: float
) -> None:
    ready = asyncio.ensure_future(getting_ready)
    ended = asyncio.ensure_future(engine.wait(container.id))
    try:
        await asyncio.wait({ready, ended}, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not ready.exception():
            return
        if ready.done():
            await asyncio.wait({ended}, timeout=_LAST_WORDS)
        raise await _failure(engine, container, ready, ended, deadline)
    finally:
        for task in (ready, ended):
            task.cancel()
        await asyncio.gather(ready, ended, return_exceptions=True)


async def _activate(activation: Activation) -> None:
    await activation.hand_over()
    await activation.wait_ready()


async def _answering(engine: Engine, container: Container, path: str) -> None:
    """Ask until the answer is 200. The caller sets the deadline."""
    address = container.address
    if not isinstance(address, TcpAddress):
        raise EngineError(
            f"{engine.name} gave container {container.name} no address", remedy="Look at the engine's log and networks."
        )
    while not (await probe(address, path, _PROBE_DEADLINE)).ok:  # noqa: ASYNC110 nobody tells us
        await asyncio.sleep(_PROBE_EVERY)


async def _failure(
    engine: Engine, container: Container, ready: asyncio.Future[None], ended: asyncio.Future[int], deadline: float
) -> DockyardError:
    """Why the start failed, with the container's last words."""
    if ended.done() and (broken := ended.exception()) is not None:
        return broken if isinstance(broken, DockyardError) else EngineError(f"{engine.name} failed: {broken}")
    log = await last_lines(engine, container.id)
    if ended.done():
        why = f"container {container.name} ended with exit code {ended.result()} before it was ready"
        if await _killed_for_memory(engine, container.id):
            return StartError(f"{why}: killed for memory", remedy="Raise its limit of memory.", detail=log)
        return StartError(why, remedy="The end of its log says why; mend that and start it again.", detail=log)
    if ready.done() and isinstance(ready.exception(), DockyardError):
        refused = ready.exception()
        assert isinstance(refused, DockyardError)
        return StartError(f"container {container.name}: {refused.what}", remedy=refused.remedy, detail=log)
    return StartError(
        f"container {container.name} was not ready after {deadline:g} s",
        remedy="If its model takes long to load, raise the deadline; otherwise the end of its log may say why.",
        detail=log,
    )


async def _killed_for_memory(engine: Engine, container_id: str) -> bool:
    try:
        return (await engine.inspect(container_id)).oom_killed
    except DockyardError:
        return False


async def last_lines(engine: Engine, container_id: str) -> str:
    """The end of a container's log for an error message; empty when it cannot be read."""
    try:
        async with asyncio.timeout(_LAST_WORDS):
            return "\n".join([line async for line in engine.logs(container_id, tail=LOG_LINES)])
    except (DockyardError, TimeoutError):
        return ""
