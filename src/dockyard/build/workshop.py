"""Where a build works: the project, the store it writes to, its caches, and who is told of progress.

One value, handed to every part of a build instead of five parameters. Made by `builder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dockyard.build.files import sweep
from dockyard.build.layers import LayerCache
from dockyard.build.progress import Progress
from dockyard.oci.layer import Codec
from dockyard.oci.layout import Layout
from dockyard.spec.load import ProjectFolder


@dataclass(frozen=True)
class Workshop:
    """The places of one build. Everything below `cache` can be made again."""

    project: ProjectFolder
    layout: Layout
    cache: Path
    progress: Progress

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
