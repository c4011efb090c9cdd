"""Taking over what runs already: a yard that starts finds the containers of the one before it by their labels.

`reconcile` calls it once for each engine before it plans anything. Replicas that serve go on serving; nothing is
restarted for the yard's sake. Containers of this yard that no record knows are removed; those of a yard in another home
(`belonging`) are never touched, and neither is what an engine has that `restore --from-engine` could not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dockyard.engines.base import Container, Engine
from dockyard.engines.probe import probe
from dockyard.engines.recovery import recover
from dockyard.engines.sockets import Listener
from dockyard.engines.weight import Weight, weigh
from dockyard.errors import ContainerNotFoundError, EngineError, YardError
from dockyard.yard.belonging import Own, in_home
from dockyard.yard.fleet import Fleet, runs
from dockyard.yard.labels import ReplicaLabels, read_labels
from dockyard.yard.records import ReplicaRecord
from dockyard.yard.state import Phase
from dockyard.yard.store import Store
from dockyard.yard.watch import Ended, ended

READY_DEADLINE_S = 2.0
UNREAD = "engine not read"
"""The note in a state that was made anew: which engine's containers were left out."""


@dataclass(frozen=True)
class Adopted:
    """What was found: replicas that go on, those that had ended, and containers of ours that nobody knew."""

    kept: tuple[str, ...]
    lost: tuple[str, ...]
    removed: tuple[str, ...]


async def adopt(engine: Engine, store: Store, fleet: Fleet, sockets: Path) -> Adopted:
    """Take over every replica of the home with these sockets on one engine.

    EngineError when that does not answer; then nothing has changed.
    """
    own = Own.of(store, sockets)
    labelled = await _labelled(engine)
    found = _own(labelled, own)
    kept, lost = list[str](), list[str]()
    for record in store.replicas():
        if record.engine == engine.name:
            goes_on = await _take_over(engine, record, found.pop(record.id, None), store, fleet)
            (kept if goes_on else lost).append(record.id)
    strange = [each.name for labels, each in labelled if labels.yard != own.yard and in_home(each, own.sockets)]
    if strange:
        what = f"{len(strange)} replicas of a state that was lost are left alone ({', '.join(strange)})"
        _tell(store, engine, f"{what}. Remove them: `dockyard stop NAME --engine {engine.name}`")
    if found and engine.name == store.note(UNREAD):
        what = f"{len(found)} replicas are left alone ({', '.join(sorted(found))}): this state was made anew without it"
        _tell(store, engine, f"{what}. Stop the yard and run `dockyard restore --from-engine` to have them back")
        return Adopted(tuple(kept), tuple(lost), ())
    for container in found.values():
        with suppress(ContainerNotFoundError):
            await engine.remove(container.id)
    return Adopted(tuple(kept), tuple(lost), tuple(each.name for each in found.values()))


async def replicas_on(engine: Engine, own: Own) -> dict[str, Container]:
    """The containers on an engine that are replicas of this yard, by replica; those with spoilt labels are not ours."""
    return _own(await _labelled(engine), own)


def _own(labelled: Sequence[tuple[ReplicaLabels, Container]], own: Own) -> dict[str, Container]:
    return {labels.replica: each for labels, each in labelled if labels.yard == own.yard and own.has(each)}


async def _labelled(engine: Engine) -> list[tuple[ReplicaLabels, Container]]:
    found = []
    for container in await engine.list():
        with suppress(YardError):
            labels = read_labels(container.labels, container.name)
            if labels is not None:
                found.append((labels, container))
    return found


def _tell(store: Store, engine: Engine, text: str) -> None:
    store.events.add("yard.unknown-replicas", f"{engine.name}: {text}")


async def _take_over(
    engine: Engine, record: ReplicaRecord, container: Container | None, store: Store, fleet: Fleet
) -> bool:
    """Keep a replica as it is, or note that it has ended."""
    if container is None:
        fleet.lost(record, Ended("was gone when the yard came back", "gone"))
        return False
    if not runs(container):
        fleet.lost(record, await ended(engine, container))
        return False
    store.set_container(record.id, container.id)
    if record.phase in {Phase.STARTING, Phase.CRASHED} and not await _serves(container, record, store):
        await engine.remove(container.id)
        fleet.lost(record, Ended("was still starting when the yard ended", "gone"))
        return False
    fleet.keep(record, container, _listener(container))
    return True


async def _serves(container: Container, record: ReplicaRecord, store: Store) -> bool:
    """Whether a replica whose start nobody saw to its end has become ready all the same."""
    if container.address is None:
        return False
    weigh(container, Weight.FULL)  # the yard that started it may have left it idle, and then it would not answer
    probes = store.revision(record.deployment, record.revision).settings.probes
    if not (await probe(container.address, probes.ready_path, READY_DEADLINE_S)).ok:
        return False
    store.set_phase(record.id, Phase.READY)
    return True


def _listener(container: Container) -> Listener | None:
    """Our copy of its listening socket; None where the kernel does not give it, which costs the queue at a crash."""
    if container.pid is None or container.socket is None:
        return None
    with suppress(EngineError):
        return recover(container.pid, container.socket)
    return None
