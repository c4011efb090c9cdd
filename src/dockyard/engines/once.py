"""Run a container once, with input, and return what it wrote and how it ended.

`dockyard test IMAGE` asks a container one thing this way, `dockyard batch IMAGE` many. Works on any engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from dockyard.engines.base import Attached, ContainerSpec, Engine, Output
from dockyard.errors import EngineError

OUTPUT_LIMIT = 256 << 20
RUN_DEADLINE = 300.0
_PIECE = 1 << 16


@dataclass(frozen=True)
class Finished:
    """How a command in a container ended. The exit code is 128 + n when signal n ended it."""

    exit_code: int
    stdout: bytes
    stderr: bytes


async def run_once(
    engine: Engine, spec: ContainerSpec, stdin: bytes | None = None, deadline: float = RUN_DEADLINE
) -> Finished:
    """Start `spec`, give it `stdin`, wait for its end and remove it, whatever happens.

    EngineError when it does not end within `deadline` seconds or writes more than 256 MiB; else what `attach` raises.
    """
    try:
        async with asyncio.timeout(deadline), engine.attach(spec) as attached:
            return await _converse(engine, attached, stdin or b"")
    except TimeoutError as error:
        raise EngineError(
            f"container {spec.name} did not end within {deadline:g} s and was removed",
            remedy="Raise the deadline, or ask for less at once.",
        ) from error


async def _converse(engine: Engine, attached: Attached, stdin: bytes) -> Finished:
    written: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    def keep(output: Output) -> None:
        written[output.stream] += output.data
        if sum(map(len, written.values())) > OUTPUT_LIMIT:
            raise EngineError(
                f"container {attached.container.name} wrote more than {OUTPUT_LIMIT >> 20} MiB",
                remedy="Ask for less at once.",
            )

    code = await converse(engine, attached, _pieces(stdin), keep)
    return Finished(code, bytes(written["stdout"]), bytes(written["stderr"]))


async def converse(
    engine: Engine, attached: Attached, stdin: AsyncIterator[bytes], hear: Callable[[Output], None]
) -> int:
    """Feed a container as fast as it reads, hand over what it writes, and wait for its end; its exit code.

    Raises what `stdin` and `hear` raise. `dockyard batch` calls it, for inputs and outputs of any size.
    """
    feeding = asyncio.ensure_future(_feed(attached, stdin))
    try:
        async for output in attached.output():
            hear(output)
            if feeding.done():
                feeding.result()
        return await engine.wait(attached.container.id)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _feed(attached: Attached, stdin: AsyncIterator[bytes]) -> None:
    async for piece in stdin:
        await attached.write(piece)
    await attached.close_input()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]
