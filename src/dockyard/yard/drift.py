"""What runs otherwise than it was asked for: records held against engines' containers, their limits, gateway's routes.

`dockyard drift` shows it. The reconciler mends most of it by itself within seconds; what stays in the list is what it
cannot mend, or what somebody is changing behind its back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from dockyard.engines.base import Container, State
from dockyard.errors import DockyardError
from dockyard.spec.status import DriftItem
from dockyard.yard.adopt import replicas_on
from dockyard.yard.belonging import Own
from dockyard.yard.labels import read_labels
from dockyard.yard.parts import Parts
from dockyard.yard.records import DeploymentSnapshot, ReplicaRecord, encode_settings
from dockyard.yard.state import Phase
from dockyard.yard.usage import NO_LIMIT, memory_limit

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
"""The kernel counts memory in pages."""
_SHOULD_RUN = {Phase.READY: State.RUNNING, Phase.DRAINING: State.RUNNING, Phase.FROZEN: State.FROZEN}


async def drift_of(snapshots: Sequence[DeploymentSnapshot], parts: Parts) -> tuple[DriftItem, ...]:
    """Everything that differs, deployment by deployment. An engine that does not answer is an item too."""
    containers: dict[str, Container] = {}
    silent: dict[str, str] = {}
    for name, engine in parts.host.engines.items():
        try:
            containers |= await replicas_on(engine, Own.of(parts.store, parts.host.sockets))
        except DockyardError as error:
            silent[name] = error.what
    found: list[DriftItem] = []
    for snapshot in snapshots:
        found += _counts(snapshot)
        for record in snapshot.replicas:
            if record.engine in silent:
                found.append(_item(record, "engine", f"{record.engine} answers", silent[record.engine]))
            else:
                found += _container(snapshot, record, containers.get(record.id))
        found += _routes(snapshot, parts)
    return tuple(found)


def _counts(snapshot: DeploymentSnapshot) -> Iterator[DriftItem]:
    deployment = snapshot.deployment
    if deployment.active is None or snapshot.rollout is not None or deployment.deleted is not None:
        return
    ready = sum(each.phase is Phase.READY for each in snapshot.replicas if each.revision == deployment.active)
    if ready != deployment.wanted:
        yield DriftItem(
            deployment=deployment.name,
            what="replicas",
            asked=f"{deployment.wanted} ready",
            found=f"{ready} ready",
            mend="the yard starts or stops replicas",
        )


def _container(snapshot: DeploymentSnapshot, record: ReplicaRecord, container: Container | None) -> Iterator[DriftItem]:
    wanted = _SHOULD_RUN.get(record.phase)
    if wanted is None:
        return
    state = container.state if container else None
    if state is not wanted:
        shown = state.value if state else "no container"
        yield _item(record, "container", wanted.value, shown, "the yard replaces it")
    if container is None:
        return
    yield from _limits(record, container, snapshot.revisions[record.revision].memory)
    labels, revision = read_labels(container.labels, container.name), snapshot.revisions[record.revision]
    if labels is None:
        return
    if labels.image_digest != revision.image_digest:
        yield _item(record, "image", revision.image_digest, labels.image_digest, "dockyard restart replaces it")
    if encode_settings(labels.settings) != encode_settings(revision.settings):
        yield _item(record, "settings", f"revision {record.revision}", "others", "dockyard restart replaces it")


def _limits(record: ReplicaRecord, container: Container, asked: int) -> Iterator[DriftItem]:
    """Memory, by what the kernel lets it use now: `docker update` leaves no other trace."""
    found = memory_limit(container.pid) if container.pid is not None else None
    if found is None or found // _PAGE_BYTES == asked // _PAGE_BYTES:
        return
    told = "no limit of memory" if found >= NO_LIMIT else f"{found} bytes of memory"
    yield _item(record, "limits", f"{asked} bytes of memory", told, "dockyard restart replaces it")


def _routes(snapshot: DeploymentSnapshot, parts: Parts) -> Iterator[DriftItem]:
    name = snapshot.deployment.name
    traffic = parts.reconciler.traffic.get(name)
    accepted = parts.reconciler.routed.accepted
    if traffic is None or accepted is None:
        return
    wanted: Mapping[int, int] = {number: weight for number, weight in traffic.weights.items() if weight}
    routed = next((each.shares for each in accepted.services if each.name == name), {})
    if wanted != routed:
        why = parts.reconciler.refused or "the gateway has not accepted it yet"
        yield DriftItem(deployment=name, what="gateway", asked=str(wanted), found=str(routed), mend=why)


def _item(record: ReplicaRecord, what: str, asked: str, found: str, mend: str = "") -> DriftItem:
    return DriftItem(deployment=record.deployment, replica=record.id, what=what, asked=asked, found=found, mend=mend)
