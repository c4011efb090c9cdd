"""The yard from start to stop, as a runbook: lock, store, audit log, gateway, reconciler, API.

`cli.up` calls it with concrete parts. What it starts is stopped in reverse; replicas and gateway are not its children
and go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dockyard.errors import DockyardError, StoreError
from dockyard.gateway.base import Gateway
from dockyard.spec.home import Home
from dockyard.supply.keys import PublicKey
from dockyard.yard.admission import Admission
from dockyard.yard.api import serving
from dockyard.yard.api_listen import Listener
from dockyard.yard.audit import AuditLog
from dockyard.yard.freeing import free
from dockyard.yard.host import Host
from dockyard.yard.judging import Judge, PolicyPlace
from dockyard.yard.lock import alone
from dockyard.yard.looking import Looking
from dockyard.yard.lost import check_not_lost
from dockyard.yard.parts import Parts
from dockyard.yard.pruning import Pruning, Retention
from dockyard.yard.receipts import Receipts
from dockyard.yard.reconcile import Reconciler
from dockyard.yard.records import ReplicaRecord
from dockyard.yard.service import Service
from dockyard.yard.state import Phase
from dockyard.yard.store import FILE_NAME, Store

CHECKPOINT_S = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Yard:
    """A yard that runs. `addresses`: of its API."""

    parts: Parts
    addresses: tuple[str, ...]
    folder: Path
    work: asyncio.Task[None]

    async def ended(self) -> None:
        """Return never, or raise what broke the reconciler."""
        await asyncio.shield(self.work)

    @property
    def running(self) -> int:
        """How many replicas serve."""
        return sum(each.phase in {Phase.READY, Phase.DRAINING} for each in self.parts.store.replicas())


@asynccontextmanager
async def opened(
    host: Host,
    home: Home,
    *,
    gateway: Callable[[], Awaitable[Gateway]],
    listeners: Sequence[Listener],
    policy: PolicyPlace,
    trusted: Callable[[], Sequence[PublicKey]],
    retention: Retention,
    host_stops: Callable[[], bool],
) -> AsyncIterator[Yard]:
    """The yard of one home, until the body ends. YardConflictError when another one runs there.

    `host_stops` is asked at the end: if so, frozen replicas are woken, for they must heed what ends all processes.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(alone(home.yard))
        store = Store.open(home.yard / FILE_NAME)
        stack.callback(store.close)
        if not store.deployments():
            await check_not_lost(host, home, store)
        store.note_default_engine(host.default_engine)
        audit = AuditLog.open(store, home.yard)
        proxy = await gateway()
        stack.push_async_callback(proxy.close)
        receipts = Receipts(store, audit, proxy)
        reconciler = Reconciler(host, store, proxy, receipts)
        looking = Looking(home.yard, store, reconciler.fleet, proxy)
        stack.callback(looking.close)
        reconciler.counted_by(looking.metrics)
        store.events.heard, audit.heard = looking.metrics.told, looking.metrics.audited
        judge = Judge(host, store, policy, trusted)
        parts = Parts(home, host, store, audit, reconciler, proxy, Admission(host, store, judge), looking)
        pruning = Pruning(store, host.images, retention, partial(free, host.engines))
        stack.push_async_callback(_wake, host, store, host_stops)  # once the reconciler freezes nothing any more
        work = asyncio.create_task(_work(reconciler, looking, audit, pruning), name="yard")
        stack.push_async_callback(_stopped, work, reconciler)
        addresses = await stack.enter_async_context(
            serving(Service(parts), listeners, answered=looking.metrics.answered)
        )
        store.events.add("yard.started", f"the yard answers on {addresses[0]}")
        yield Yard(parts, addresses, home.yard, work)
        store.events.add("yard.stopped", "the yard was told to stop; replicas and gateway go on")


async def _checkpoints(audit: AuditLog) -> None:
    """Sign how far the audit log is, now and then."""
    while True:
        await asyncio.sleep(CHECKPOINT_S)
        try:
            audit.checkpoint()
        except StoreError as error:  # a full disk must not end the yard
            _log.error("the audit log cannot be signed now: %s", error)


async def _work(reconciler: Reconciler, looking: Looking, audit: AuditLog, pruning: Pruning) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(pruning.run(), name="pruning")
        group.create_task(_checkpoints(audit), name="checkpoints")
        group.create_task(reconciler.run(), name="reconciler")
        group.create_task(looking.sampler.run(), name="sampler")


async def _wake(host: Host, store: Store, host_stops: Callable[[], bool]) -> None:
    """Thaw all replicas if the host is shut down: frozen, they would not end, and it would wait for them."""
    if not await asyncio.to_thread(host_stops):
        return
    asleep = (each for each in store.replicas() if each.phase in {Phase.FREEZING, Phase.FROZEN})
    await asyncio.gather(*(_thaw(host, each) for each in asleep))


async def _thaw(host: Host, replica: ReplicaRecord) -> None:
    with suppress(DockyardError):  # it has ended, or its engine is ending too
        await host.engine(replica.engine).thaw(replica.id)


async def _stopped(work: asyncio.Task[None], reconciler: Reconciler) -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await reconciler.close()
