"""What replicas run on: the engines of this host, the image store, the folders, the memory that may be used.

`cli.up` makes it, with concrete engines; `fleet`, `admission` and `service` use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dockyard.engines.base import Engine
from dockyard.errors import EngineNotFoundError
from dockyard.oci.digest import Digest
from dockyard.oci.image import Image
from dockyard.oci.layout import Layout

_MEMINFO = Path("/proc/meminfo")
_SPARED = 0.1


@dataclass(frozen=True)
class Host:
    """This host. `memory`: bytes that all replicas may use together; `labels`: what `placement` is compared with."""

    engines: Mapping[str, Engine] = field(hash=False)
    default_engine: str
    images: Layout
    sockets: Path
    memory: int
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)

    def engine(self, name: str) -> Engine:
        """The engine of this name, or the default one for an empty name; EngineNotFoundError when it is not here."""
        chosen = name or self.default_engine
        if chosen not in self.engines:
            raise EngineNotFoundError(
                f"this yard has no engine {chosen!r}, but {', '.join(sorted(self.engines))}",
                remedy="Leave `engine` out, or start that engine and then the yard again.",
            )
        return self.engines[chosen]

    def image(self, digest: Digest) -> Image:
        """An image of the store; ImageNotFoundError."""
        return self.images.resolve(digest)


def usable_memory(table: Path = _MEMINFO) -> int:
    """Nine tenths of this machine's memory, in bytes: the rest is for the gateway, the engine and the yard."""
    for line in table.read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(int(line.split()[1]) * 1024 * (1 - _SPARED))
    raise OSError(f"{table} does not tell how much memory there is")
