"""The start of a berth image on any engine, as a runbook: sockets, container, hand-over, ready.

Called by `dockyard run` and whatever else starts replicas. It returns a container that serves, or it raises and leaves
nothing behind: no container, no folder, no bound port. That holds for Ctrl-C too.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path

from dockyard.engines.base import Container, ContainerSpec, Engine
from dockyard.engines.removal import remove_surely
from dockyard.engines.sockets import Activation
from dockyard.errors import DockyardError, EngineError, StartError

READY_DEADLINE = 120.0
LOG_LINES = 20
IMAGE_DIGEST = "BERTH_IMAGE_DIGEST"  # no image can hold its own, so whoever starts one says it
_LAST_WORDS = 2.0


async def launch(
    engine: Engine,
    spec: ContainerSpec,
    *,
    runtime_folder: Path,
    publish: int | None = None,
    deadline: float = READY_DEADLINE,
) -> Container:
    """Start `spec` and return when it is ready to answer on `container.socket` (and on 127.0.0.1:`publish`).

    Its sockets go to a new folder in `runtime_folder`, an absolute path; `engine.remove` removes it. StartError, with
    the end of the log, when it ends or is not ready after `deadline` seconds; PortTakenError; what `start` raises.
    """
    folder = runtime_folder / f"{spec.name}-{secrets.token_hex(3)}"
    with Activation(folder, publish) as activation:
        environment = {IMAGE_DIGEST: str(spec.image.digest), **spec.environment}
        full = replace(spec, environment=environment, socket_folder=activation.folder, ports=activation.ports)
        container = await engine.start(full)
        try:
            await _until_ready(engine, container, activation, deadline)
        except BaseException:
            await remove_surely(engine, container.id)
            raise
        return container


async def _until_ready(engine: Engine, container: Container, activation: Activation, deadline: float) -> None:
    ready = asyncio.ensure_future(_activate(activation))
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


async def _failure(
    engine: Engine, container: Container, ready: asyncio.Future[None], ended: asyncio.Future[int], deadline: float
) -> DockyardError:
    """Why the start failed, with the container's last words."""
    if ended.done() and (broken := ended.exception()) is not None:
        return broken if isinstance(broken, DockyardError) else EngineError(f"{engine.name} failed: {broken}")
    log = await last_lines(engine, container.id)
    if ended.done():
        why = f"container {container.name} ended with exit code {ended.result()} before it was ready"
        if ended.result() == 137:
            return StartError(why, remedy="It was killed, most likely for want of memory: raise its limit.", detail=log)
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


async def last_lines(engine: Engine, container_id: str) -> str:
    """The end of a container's log for an error message; empty when it cannot be read."""
    try:
        async with asyncio.timeout(_LAST_WORDS):
            return "\n".join([line async for line in engine.logs(container_id, tail=LOG_LINES)])
    except (DockyardError, TimeoutError):
        return ""
