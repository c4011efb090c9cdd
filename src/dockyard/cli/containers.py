"""Which containers there are, on every engine that answers; what `ps`, `logs`, `stop` and `predict` share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from dockyard.cli import compose
from dockyard.engines.base import Container, Engine
from dockyard.errors import ContainerNotFoundError, EngineError, EngineNotFoundError


@dataclass(frozen=True)
class Found:
    """A container and the engine that has it."""

    engine: Engine
    container: Container


@asynccontextmanager
async def all_containers(engine: str = "auto") -> AsyncIterator[tuple[Found, ...]]:
    """Dockyard's containers by name, on `engine` or, with `auto`, on all that answer."""
    names = ("docker", "runc") if engine == "auto" else (engine,)
    async with AsyncExitStack() as stack:
        found: list[Found] = []
        missing: list[EngineNotFoundError] = []
        for name in names:
            try:
                one = await stack.enter_async_context(compose.chosen_engine(name, tell=False))
            except EngineNotFoundError as error:
                missing.append(error)
                continue
            found += [Found(one, container) for container in await one.list()]
        if len(missing) == len(names):
            raise missing[0]
        yield tuple(sorted(found, key=lambda each: each.container.name))


@asynccontextmanager
async def one_container(name: str, engine: str = "auto") -> AsyncIterator[Found]:
    """The container of a name, or of the beginning of its ID; ContainerNotFoundError, naming those there are."""
    async with all_containers(engine) as found:
        yield pick(name, found)


def pick(name: str, found: tuple[Found, ...]) -> Found:
    """The one of `found` that `name` means."""
    named = [each for each in found if each.container.name == name]
    named = named or [each for each in found if len(name) >= 6 and each.container.id.startswith(name)]
    if len(named) > 1:
        engines = " and ".join(each.container.engine for each in named)
        raise EngineError(f"{name!r} is a container on {engines}", remedy="Say which one with --engine.")
    if named:
        return named[0]
    names = ", ".join(each.container.name for each in found)
    raise ContainerNotFoundError(
        f"there is no container {name!r}",
        remedy=f"There are: {names}." if names else "None is running: `dockyard run IMAGE -d` starts one.",
    )
