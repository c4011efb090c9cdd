"""What an image is built for: architecture, Python version and C library of its base.

Wheels, bytecode and the preflight all depend on these three; they come out of the base (`base`, `debian`).
"""

from __future__ import annotations

from dataclasses import dataclass

from dockyard.errors import ProjectError
from dockyard.oci.image import Platform

_WHEELS = {"amd64": "x86_64", "arm64": "aarch64"}
_TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

ARCHITECTURES = tuple(_TRIPLETS)

# The newest manylinux level uv knows by name.
_NEWEST_MANYLINUX = (2, 40)


@dataclass(frozen=True)
class Target:
    """Architecture (`amd64`, `arm64`), Python (`3.11`) and glibc version (2, 36) of the base."""

    architecture: str
    python: str
    glibc: tuple[int, int]

    @property
    def platform(self) -> Platform:
        """The OCI platform."""
        return Platform("linux", self.architecture)

    @property
    def wheel_platform(self) -> str:
        """uv's name for the newest wheels that this base can load, such as `x86_64-manylinux_2_36`."""
        major, minor = min(self.glibc, _NEWEST_MANYLINUX)
        return f"{_WHEELS[self.architecture]}-manylinux_{major}_{minor}"

    @property
    def triplet(self) -> str:
        """Debian's multi-arch folder name."""
        return _TRIPLETS[self.architecture]


def triplet_of(architecture: str) -> str:
    """Debian's multi-arch folder name of an architecture."""
    return _TRIPLETS[architecture]


def host_architecture() -> str:
    """This machine's architecture in OCI's words; ProjectError if Dockyard builds nothing for it."""
    architecture = Platform.host().architecture
    if architecture not in _TRIPLETS:
        raise ProjectError(
            f"this machine's architecture {architecture!r} is not one that Dockyard builds for",
            remedy="Build on a linux/amd64 or linux/arm64 machine.",
        )
    return architecture
