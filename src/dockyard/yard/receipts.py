"""Every rollout's receipt: what it did to requests, by the gateway's own counters. Kept in the store and the audit log.

The reconciler shows this every round; it takes the gateway's figures when a rollout begins, when traffic switches and
when it ends. What cannot be measured is left out: a receipt is written all the same.
"""

from __future__ import annotations

import msgspec

from dockyard.errors import DockyardError
from dockyard.gateway.base import Gateway
from dockyard.spec.status import Receipt
from dockyard.yard.audit import AuditLog, Entry, Outcome
from dockyard.yard.exposition import Exposition
from dockyard.yard.receipt import Figures, receipt
from dockyard.yard.records import DeploymentSnapshot, RolloutRecord
from dockyard.yard.sampler import gateway_figures
from dockyard.yard.state import Phase, RolloutPhase, Traffic
from dockyard.yard.store import Store

_MS = 1000


class Following:
    """What is remembered of a rollout while it goes on."""

    def __init__(self, start: Exposition | None) -> None:
        self.start = start
        self.in_flight_at_switch: int | None = None
        self.hold_s = 0.0
        self._held_since: float | None = None

    def hold(self, held: bool, now: float) -> None:
        """Note whether requests wait because none of the endpoints is ready."""
        if held and self._held_since is None:
            self._held_since = now
        elif not held and self._held_since is not None:
            self.hold_s += now - self._held_since
            self._held_since = None


class Receipts:
    """Follows every rollout to its end."""

    def __init__(self, store: Store, audit: AuditLog, gateway: Gateway) -> None:
        self._store = store
        self._audit = audit
        self._gateway = gateway
        self._following: dict[int, Following] = {}

    async def begin(self, rollout: int) -> None:
        """Take the gateway's figures before anything happens."""
        if rollout not in self._following:
            self._following[rollout] = Following(await self._figures())

    async def look(self, deployment: DeploymentSnapshot, traffic: Traffic | None) -> None:
        """One round of a rollout that is under way."""
        rollout = deployment.rollout
        if rollout is None:
            return
        await self.begin(rollout.id)
        following = self._following[rollout.id]
        following.hold(rollout.source is not None and _nobody_ready(deployment, traffic), self._store.now())
        if rollout.phase is RolloutPhase.SWITCHING and following.in_flight_at_switch is None:
            following.in_flight_at_switch = await self._in_flight(deployment, rollout.source)

    async def end(self, rollout: RolloutRecord) -> Receipt:
        """Write the receipt of a rollout that has ended."""
        following = self._following.pop(rollout.id, Following(None))
        figures = await self._figures()
        written = _receipt(self._store, rollout, following, figures)
        told = msgspec.to_builtins(written)
        with self._store.together():
            self._store.set_receipt(rollout.id, told)
            outcome = Outcome.DONE if written.succeeded else Outcome.FAILED
            entry = Entry("yard", "rollout", rollout.deployment, outcome, written.why, after=told)
            self._audit.append(entry)
        return written

    async def _figures(self) -> Exposition | None:
        try:
            return gateway_figures(await self._gateway.metrics())
        except DockyardError:
            return None

    async def _in_flight(self, deployment: DeploymentSnapshot, revision: int | None) -> int:
        try:
            counts = await self._gateway.counts()
        except DockyardError:
            return 0
        names = [each.id for each in deployment.replicas if each.revision == revision]
        return sum(counts[name].in_flight for name in names if name in counts)


def _nobody_ready(deployment: DeploymentSnapshot, traffic: Traffic | None) -> bool:
    phases = {each.id: each.phase for each in deployment.replicas}
    endpoints = [each for some in (traffic.endpoints.values() if traffic else ()) for each in some]
    return bool(endpoints) and all(phases.get(each) is not Phase.READY for each in endpoints)


def _receipt(store: Store, rollout: RolloutRecord, following: Following, end: Exposition | None) -> Receipt:
    target = store.revision(rollout.deployment, rollout.target)
    done = rollout.phase is RolloutPhase.DONE
    ended = rollout.ended or store.now()
    base = Receipt(
        rollout=rollout.id,
        deployment=rollout.deployment,
        source=rollout.source,
        target=rollout.target,
        strategy=target.settings.strategy.kind,
        outcome="done" if done else "aborted" if rollout.aborted else "failed",
        started=rollout.started,
        seconds=ended - rollout.started,
        why=rollout.aborted or rollout.phase_why,
        in_flight_at_switch=following.in_flight_at_switch or 0,
        hold_s=following.hold_s,
    )
    if following.start is None or end is None:
        return base
    figures = receipt(rollout.deployment, rollout.source, rollout.target, following.start, end)
    old, new, before = figures.old or Figures(), figures.new, figures.before or Figures()
    after = new.joined(figures.shared)
    return msgspec.structs.replace(
        base,
        requests_old=old.requests,
        requests_new=new.requests,
        requests_shared=figures.shared.requests,
        dropped=old.errors + after.errors,
        p50_before_ms=_times(before.quantile(0.5)),
        p50_after_ms=_times(after.quantile(0.5)),
        p99_before_ms=_times(before.quantile(0.99)),
        p99_after_ms=_times(after.quantile(0.99)),
    )


def _times(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * _MS
