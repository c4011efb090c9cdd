"""Where a build works: the project, the store it writes to, its caches, and who is told of progress.

One value, handed to every part of a build instead of five parameters. Made by `builder`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dockyard.build.files import sweep
from dockyard.build.layers import LayerCache
from dockyard.build.lock import Lock
from dockyard.build.memory import Memory
from dockyard.build.progress import Progress
from dockyard.build.target import Target, host_architecture
from dockyard.oci.layer import Codec
from dockyard.oci.layout import Layout
from dockyard.spec.load import ProjectFolder


@dataclass(frozen=True)
class Workshop:
    """The places of one build, and the architecture it is for. Everything below `cache` can be made again.

    Builds with the same `memory` are of one project and one architecture, one after the other.
    """

    project: ProjectFolder
    layout: Layout
    cache: Path
    progress: Progress
    architecture: str = field(default_factory=host_architecture)
    memory: Memory = field(default_factory=Memory)

    @property
    def platform(self) -> str:
        """What the image is for, as lock files name it."""
        return f"linux/{self.architecture}"

    def target(self, lock: Lock) -> Target:
        """What a lock of this build's platform is for."""
        return Target(self.architecture, lock.python, lock.glibc)

    @property
    def layers(self) -> LayerCache:
        """Layers made before."""
        return LayerCache(self.cache / "layers", self.layout.blobs)

    @property
    def codec(self) -> Codec:
        """How this project's layers are packed."""
        return self.project.project.build.compression

    @property
    def scratch(self) -> Path:
        """For folders that live as long as one step."""
        return self.cache / "work"

    @property
    def packages(self) -> Path:
        """Debian packages as they were fetched."""
        return self.cache / "packages"

    def sweep(self) -> None:
        """Remove what killed builds left."""
        for folder in (self.scratch, self.trees, self.packages):
            sweep(folder)

    @property
    def trees(self) -> Path:
        """Bases and packages, unpacked, each below its key."""
        return self.cache / "trees"
