"""The yard's loop: observe, plan, act, until it is told to stop.

`cli.up` runs it; `service` and `fleet` wake it when something has changed, and the plan says when time alone will.
Traffic comes first: only once the gateway has accepted where requests go are the steps carried out, so that nothing is
stopped that may still be asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from dockyard.engines.base import Engine
from dockyard.errors import DockyardError, EngineError, GatewayError, StoreError
from dockyard.gateway.base import Gateway
from dockyard.oci.digest import Digest
from dockyard.spec.labels import MODEL_NAME
from dockyard.yard.act import Actor
from dockyard.yard.adopt import adopt
from dockyard.yard.fleet import Fleet
from dockyard.yard.host import Host
from dockyard.yard.metrics import Metrics
from dockyard.yard.observe import Routed, world_of
from dockyard.yard.plan import plan
from dockyard.yard.receipts import Receipts
from dockyard.yard.records import DeploymentSnapshot, RevisionRecord
from dockyard.yard.state import Advance, Phase, Plan, RolloutPhase, Traffic
from dockyard.yard.store import Store
from dockyard.yard.traffic import snapshot_of

REST_S = 5.0
"""How long the loop sleeps at most, when nothing happens."""
DRAIN_POLL_S = 0.05
FAULT_PAUSE_S = 1.0
STEP_POLL_S = 0.5
"""When a step is under way already, or failed and is to be tried again."""
_MODELS = 1000
_log = logging.getLogger(__name__)
_COUNTED = {Phase.DRAINING, Phase.FREEZING}
_NOT_RUNNING = {Phase.CREATED, Phase.STARTING, Phase.CRASHED}
"""Only for these may a listener be made: a container that runs has one, even where we have no copy of it."""


class Reconciler:
    """Makes what runs be what is asked for."""

    def __init__(self, host: Host, store: Store, gateway: Gateway, receipts: Receipts) -> None:
        self._host = host
        self._store = store
        self._gateway = gateway
        self._receipts = receipts
        self._metrics: Metrics | None = None
        self._changed = asyncio.Event()
        self._told = frozenset[tuple[str, str]]()
        self._models: dict[Digest, str] = {}
        self.routed = Routed(store.now())
        self.fleet = Fleet(host, store, self.wake)
        self.traffic: Mapping[str, Traffic] = {}
        self.refused = ""
        """Why the gateway does not take the traffic that is wanted; empty when it does."""
        self._actor = Actor(host, store, self.fleet)

    def counted_by(self, metrics: Metrics) -> None:
        """Let this count rounds, plans and steps."""
        self._metrics = metrics

    def wake(self) -> None:
        """Something has changed: plan again now."""
        self._changed.set()

    async def run(self) -> None:
        """Adopt what runs, then reconcile until cancelled."""
        async with asyncio.TaskGroup() as group:
            adopting = [group.create_task(self._adopt(engine)) for engine in self._host.engines.values()]
            await asyncio.wait(adopting, timeout=REST_S)
            while True:
                self._changed.clear()
                pause = await self._safe_round()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._changed.wait()

    async def close(self) -> None:
        """Let go of everything; containers and the gateway go on."""
        await self.fleet.close()

    async def _adopt(self, engine: Engine) -> None:
        """Take over what runs on an engine, as soon as that answers."""
        told = False
        while True:
            try:
                found = await adopt(engine, self._store, self.fleet, self._host.sockets)
                break
            except EngineError as error:
                if not told:
                    self._store.events.add("engine.gone", f"{engine.name} does not answer: {error.what}")
                told = True
                await asyncio.sleep(1.0)
        if found.kept or found.lost or found.removed:
            self._store.events.add(
                "yard.adopted",
                f"{engine.name}: {len(found.kept)} replicas go on, {len(found.lost)} had ended, "
                f"{len(found.removed)} containers that nobody knew were removed",
            )
        self.wake()

    async def _safe_round(self) -> float:
        """One round. A fault of ours must not end the yard: it is logged and told, and the next round is soon."""
        try:
            return await self._round()
        except StoreError as error:
            _log.error("the store cannot be used: %s", error)
        except Exception as error:
            _log.exception("a round broke off")
            with suppress(StoreError):
                self._store.events.add("yard.fault", f"a round broke off: {error!r}")
        return FAULT_PAUSE_S

    async def _round(self) -> float:
        """One round; the seconds to sleep if nothing changes."""
        begun = time.perf_counter()
        deployments = self._store.snapshot()
        counts = await self._in_flight(deployments)
        world = world_of(deployments, self.routed, counts, self._host.memory)
        planning = time.perf_counter()
        decided = plan(world, self._store.now())
        planned = time.perf_counter()
        accepted = await self._direct(deployments, decided)
        for deployment in deployments:
            await self._receipts.look(deployment, decided.traffic.get(deployment.deployment.name))
        changed = await self._carry_out(decided) if accepted else False
        self._tell(decided)
        if self._metrics is not None:
            self._metrics.planned(planned - planning)
            self._metrics.reconciled(time.perf_counter() - begun)
        if changed:
            return 0.0
        return self._pause(decided, deployments, accepted=accepted)

    async def _carry_out(self, decided: Plan) -> bool:
        """Act on every step; whether anything has changed by that already."""
        changed = False
        for step in decided.steps:
            if self._metrics is not None:
                self._metrics.stepped(step)
            changed |= await self._actor.act(step)
            if isinstance(step, Advance) and step.phase in {RolloutPhase.DONE, RolloutPhase.FAILED}:
                await self._ended(step.deployment)
        return changed

    async def _ended(self, deployment: str) -> None:
        """Write the receipt of the rollout that has just ended."""
        ended = self._store.rollouts(deployment, limit=1)[0]
        written = await self._receipts.end(ended)
        if self._metrics is not None:
            self._metrics.rolled_out(written.outcome)

    async def _in_flight(self, deployments: tuple[DeploymentSnapshot, ...]) -> Mapping[str, int]:
        """Requests in each replica that waits for its last ones to finish; nobody else's matter to the plan."""
        waiting = {each.id for one in deployments for each in one.replicas if each.phase in _COUNTED}
        if not waiting:
            return {}
        try:
            counts = await self._gateway.counts()
        except GatewayError:
            return dict.fromkeys(waiting, 1)
        return {name: counts[name].in_flight for name in waiting if name in counts}

    async def _direct(self, deployments: tuple[DeploymentSnapshot, ...], decided: Plan) -> bool:
        """Make the gateway send requests where the plan wants them; whether it has accepted that."""
        self.traffic = decided.traffic
        for deployment in deployments:
            asked = _endpoints(decided.traffic.get(deployment.deployment.name))
            for replica in deployment.replicas:
                if replica.id in asked and replica.phase in _NOT_RUNNING:
                    with suppress(DockyardError):
                        self.fleet.hold(replica)
        wanted = snapshot_of(deployments, decided.traffic, self.fleet.tcp, self._model)
        accepted = self.routed.accepted
        if accepted is not None and wanted.version == accepted.version:
            return True
        try:
            await self._gateway.apply(wanted)
        except GatewayError as error:
            if error.what != self.refused:
                self._store.events.add("gateway.refused", error.what, detail=str(error))
            self.refused = error.what
            return False
        self.refused = ""
        self.routed.accept(wanted, self._store.now())
        self._changed.set()
        return True

    def _tell(self, decided: Plan) -> None:
        """Why nothing happens, where that is so: each reason once, until it is another."""
        notes = frozenset((note.deployment, note.text) for note in decided.notes)
        for deployment, text in sorted(notes - self._told):
            self._store.events.add("plan.note", text, deployment=deployment)
        self._told = notes

    def _model(self, revision: RevisionRecord) -> str:
        """The name of the model inside a revision's image; the deployment's own for a foreign image.

        While the image is not in the store, what the gateway has: what runs serves on, whatever became of its image.
        """
        digest = revision.image_digest
        if digest not in self._models:
            try:
                model = self._host.image(digest).config.labels.get(MODEL_NAME, "")
            except DockyardError:
                services = self.routed.accepted.services if self.routed.accepted else ()
                known = (each.model for each in services if each.name == revision.deployment)
                return next(known, revision.deployment)
            if len(self._models) >= _MODELS:
                self._models.clear()
            self._models[digest] = model
        return self._models[digest] or revision.deployment

    def _pause(self, decided: Plan, deployments: tuple[DeploymentSnapshot, ...], *, accepted: bool) -> float:
        if any(each.phase in _COUNTED for one in deployments for each in one.replicas):
            return DRAIN_POLL_S
        if not accepted:
            return 1.0
        if decided.steps:
            return STEP_POLL_S
        until = decided.wake - self._store.now() if decided.wake is not None else REST_S
        return min(max(until, 0.01), REST_S)


def _endpoints(traffic: Traffic | None) -> frozenset[str]:
    return frozenset(each for some in traffic.endpoints.values() for each in some) if traffic else frozenset()
