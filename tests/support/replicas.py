"""Containers as the runc engine finds them on the disk, without starting any: replicas that have ended, of any home.

Used by the tests of adoption and of what is done when a yard's state is lost.
"""

from __future__ import annotations

import msgspec

from dockyard.engines import labels as label
from dockyard.engines.runc.records import Facts, Life, boot_id, write
from dockyard.spec.home import Home
from dockyard.yard.labels import labels_of
from dockyard.yard.store import Store


def put_replica(engine: Home, store: Store, name: str, *, sockets: Home | None, deployment: str = "iris") -> None:
    """An ended replica of the newest revision of `store`, on the runc of the home `engine`, whose sockets are in the
    home `sockets`; None: a foreign server, which has none."""
    folder = engine.runc / "containers" / name
    folder.mkdir(parents=True)
    labels = labels_of(store.yard, name, store.revisions(deployment)[0], 1)
    own = {
        label.MANAGED: "1",
        label.IMAGE: f"{deployment}:one",
        label.SOCKETS: str(sockets.containers / name) if sockets else "",
        label.SOCKETS_OWNER: "listener" if sockets else "",
    }
    life = Life("exited", 1, 1, boot_id(), 1.0, 1, 1, exit_code=0, ended=2.0)
    write(folder / "container.json", msgspec.to_builtins(Facts(name, f"{deployment}:one", labels | own)))
    write(folder / "state.json", msgspec.to_builtins(life))


def names_on(engine: Home) -> set[str]:
    """The containers that are there."""
    return {each.name for each in (engine.runc / "containers").iterdir()}
