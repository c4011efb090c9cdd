"""Whether a state with nothing in it is that of a new yard, or stands where one was lost whose replicas still are.

A yard that went on with it would tell the gateway that there are no deployments, and every request would fail. So it
does not start beside replicas of this home that its state does not know: those that an engine tells of, and those that
the gateway was last told to ask and that still answer, even while their engine is being restarted. `run` asks before
anything else, and again at each start until there is a deployment. `cli.rebuilding` reads the gateway's snapshot here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress

from dockyard.errors import GatewayError, YardError
from dockyard.gateway.snapshot import SNAPSHOT, Endpoint, Snapshot, UnixAddress
from dockyard.oci.files import store_errors
from dockyard.spec.home import Home
from dockyard.yard.belonging import in_home
from dockyard.yard.database import files_of
from dockyard.yard.host import Host
from dockyard.yard.labels import YARD
from dockyard.yard.store import Store

_ANSWER_S = 1.0


async def check_not_lost(host: Host, home: Home, store: Store) -> None:
    """YardError when replicas of this home are there of which `store`, without any deployment, knows nothing.

    One that was made just now is removed again, also when an engine does not tell what it has (EngineError): with the
    next start it would no longer pass for new.
    """
    try:
        found = await _replicas(host, home, store)
        if found:
            raise YardError(
                f"the yard's state in {home.yard} is lost, and {len(found)} of its replicas are still here",
                remedy="Bring it back with `dockyard restore FILE`, or without one: `dockyard restore --from-engine`.",
                detail=", ".join(sorted(found)),
            )
    except BaseException:
        if store.fresh:
            _remove(store)
        raise


def last_routed(home: Home) -> Snapshot | None:
    """What the gateway of this home accepted last; None when there is nothing that can be read."""
    with suppress(FileNotFoundError, GatewayError):
        return Snapshot.from_json((home.gateway / SNAPSHOT).read_bytes())
    return None


def endpoints_of(snapshot: Snapshot | None) -> dict[str, Endpoint]:
    """Every replica that the gateway knows, by its id."""
    services = snapshot.services if snapshot else ()
    return {each.id: each for service in services for some in service.endpoints.values() for each in some}


async def _replicas(host: Host, home: Home, store: Store) -> set[str]:
    """The names of replicas of this home that another state than this made."""
    listed = [each for engine in host.engines.values() for each in await engine.list()]
    strange = (each for each in listed if each.labels.get(YARD, store.yard) != store.yard)
    found = {each.name for each in strange if in_home(each, home.containers)}
    return found | set(await _answering(endpoints_of(last_routed(home)).values()))


async def _answering(endpoints: Iterable[Endpoint]) -> tuple[str, ...]:
    asked = tuple(endpoints)
    answers = await asyncio.gather(*(_answers(each) for each in asked))
    return tuple(each.id for each, answer in zip(asked, answers, strict=True) if answer)


async def _answers(endpoint: Endpoint) -> bool:
    """Whether somebody listens there."""
    address = endpoint.address
    with suppress(OSError, TimeoutError):
        if isinstance(address, UnixAddress):
            return _listens(address.path)
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.close()
            return True
    return False


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        one.setblocking(False)
        try:
            one.connect(path)
        except BlockingIOError:  # it has so many connections waiting that it takes no more
            return True
        return True


def _remove(store: Store) -> None:
    """Only what was made just now: copies from before an upgrade, and states put aside, are all that is left."""
    store.close()
    for file in files_of(store.database.path):
        with store_errors(file):
            file.unlink(missing_ok=True)
