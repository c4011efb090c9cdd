"""The networks that a container joins on Docker: the one of foreign servers, which we make, and an operator's own.

Called by `engine` when it creates a container, or is asked whether it could. Most containers join none.
"""

from __future__ import annotations

from aiodocker.exceptions import DockerError

from dockyard.engines.base import ContainerSpec
from dockyard.engines.docker.config import INTERNAL_NETWORK, NETWORK_REQUEST
from dockyard.engines.docker.session import CONFLICT, NOT_FOUND, Session
from dockyard.errors import EngineError

_NO_ADDRESSES = "available, non-overlapping IPv4 address pool"  # in the words of Docker 20 to 29


async def ensure(session: Session, spec: ContainerSpec) -> None:
    """Make the network of foreign servers if it is wanted and not there; EngineError when a named one is not there."""
    if spec.tcp_port:
        await _ensure_internal(session)
    await check(session, spec)


async def check(session: Session, spec: ContainerSpec) -> None:
    """EngineError when a network that somebody named is not there."""
    if spec.network and not await _exists(session, spec.network):
        raise EngineError(
            f"Docker has no network {spec.network!r} for container {spec.name} to join",
            remedy=f"Make it: docker network create {spec.network}",
        )


async def connect(session: Session, spec: ContainerSpec, container_id: str) -> None:
    """Let a foreign server reach its egress network besides the network that it was created in."""
    if spec.tcp_port and spec.network:
        async with session.asking(f"to connect {spec.name} to network {spec.network}"):
            network = await session.client.networks.get(spec.network)
            await network.connect({"Container": container_id})


async def _ensure_internal(session: Session) -> None:
    if await _exists(session, INTERNAL_NETWORK):
        return
    async with session.asking(f"to make network {INTERNAL_NETWORK}"):
        try:
            await session.client.networks.create(NETWORK_REQUEST)
        except DockerError as error:
            if _NO_ADDRESSES in error.message:
                raise EngineError(
                    f"Docker has no addresses left for network {INTERNAL_NETWORK}, which a foreign server needs",
                    detail=error.message.strip(),
                    remedy="Remove networks that nobody uses (`docker network prune`), or give Docker more addresses"
                    " (`default-address-pools` in its daemon.json).",
                ) from error
            if error.status != CONFLICT:  # made by somebody else meanwhile
                raise


async def _exists(session: Session, name: str) -> bool:
    async with session.asking(f"about network {name}"):
        try:
            found = await (await session.client.networks.get(name)).show()
        except DockerError as error:
            if error.status == NOT_FOUND:
                return False
            raise
    if name == INTERNAL_NETWORK and not found.get("Internal"):
        raise EngineError(
            f"Docker's network {name} has a way out, which the network of foreign servers must not have",
            remedy=f"Remove it (`docker network rm {name}`); Dockyard makes it anew.",
        )
    return True
