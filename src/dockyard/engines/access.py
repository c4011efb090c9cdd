"""What of its host a container may be given: mounts, secrets, a network; and what never, whoever asks.

`base` checks wishes when a spec is made; an engine checks the sources of mounts when it starts one, for they are of
its host. A refusal names the rule.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from dockyard.errors import EngineError
from dockyard.spec.deployment import Mount

SECRETS_MOUNT = "/run/secrets"
SOCKET_MOUNT = "/run/berth"
SECRET_BYTES = 1 << 20

# An engine's socket is the key to the host: whoever writes to it is root. What else is here leads there.
_NEVER_MOUNTED = (
    *("/proc", "/sys", "/dev", "/run/docker.sock", "/run/docker", "/run/containerd", "/run/podman", "/run/crio"),
    *("/run/dockyard", "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers"),
)
_NEVER_COVERED = ("/proc", "/sys", "/dev", "/tmp", SOCKET_MOUNT, SECRETS_MOUNT)  # noqa: S108
_SECRET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
_NETWORK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}", re.ASCII)
_NO_EGRESS = frozenset({"host", "none", "bridge", "default", "container"})


def check_access(mounts: Sequence[Mount], secrets: Mapping[str, bytes | Path], network: str, tcp_port: int) -> None:
    """EngineError for a mount's target, a secret's name or content, a network or a port that cannot be."""
    for mount in mounts:
        _check_target(mount)
    targets = [PurePosixPath(mount.target) for mount in mounts]
    if len(set(targets)) < len(targets):
        raise EngineError("two mounts have the same target", remedy="Give each mount a target of its own.")
    for name, value in secrets.items():
        _check_secret(name, value)
    if network and (network in _NO_EGRESS or not _NETWORK.fullmatch(network)):
        raise EngineError(
            f"network {network[:80]!r} is not one that a container may join",
            remedy="Make a network for this purpose (`docker network create NAME`) and give its name.",
        )
    if not 0 <= tcp_port <= 65535:
        raise EngineError(f"{tcp_port} is not a TCP port", remedy="Choose one between 1 and 65535.")


def check_sources(mounts: Sequence[Mount], protected: Collection[Path] = ()) -> tuple[Mount, ...]:
    """The mounts with their sources as real paths; EngineError when one is not there, or may never be mounted.

    `protected`: further paths that no container may see, such as the engine's own socket and folders. It blocks.
    """
    return tuple(_checked(mount, protected) for mount in mounts)


def _check_target(mount: Mount) -> None:
    target = PurePosixPath(mount.target)
    if not target.is_absolute() or ".." in target.parts or "\0" in mount.target or "\n" in mount.target:
        raise EngineError(
            f"{mount.target[:200]!r} cannot be a mount's target", remedy="Write an absolute path without '..'."
        )
    for never in _NEVER_COVERED:
        if target.is_relative_to(never) or PurePosixPath(never).is_relative_to(target):
            raise EngineError(
                f"a mount may not have the target {target}: it would cover {never}",
                remedy="Choose a folder of its own, such as /data.",
            )


def _checked(mount: Mount, protected: Collection[Path]) -> Mount:
    try:
        source = Path(mount.source).resolve(strict=True)
        mode = source.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise EngineError(
            f"the mount's source {mount.source} cannot be used: {getattr(error, 'strerror', None) or error}",
            remedy="Name a folder or file that is on the engine's host.",
        ) from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise EngineError(
            f"the mount's source {mount.source} is neither a folder nor a file",
            remedy="Sockets and devices of the host are never mounted; for GPUs there is `gpus`.",
        )
    for never in (*(Path(path) for path in _NEVER_MOUNTED), *(path.resolve() for path in protected)):
        if source.is_relative_to(never) or never.is_relative_to(source):
            raise EngineError(
                f"{mount.source} may not be mounted: it {_relation(source, never)} {never}, which gives away the host",
                remedy="Mount the folder that the model needs, and no more.",
            )
    return Mount(source=str(source), target=mount.target, writable=mount.writable)


def _relation(source: Path, never: Path) -> str:
    if source == never:
        return "is"
    return "lies in" if source.is_relative_to(never) else "contains"


def _check_secret(name: str, value: bytes | Path) -> None:
    if not _SECRET.fullmatch(name):
        raise EngineError(
            f"{name[:100]!r} cannot be a secret's name",
            remedy="Use at most 100 letters, digits, '_', '.' and '-', beginning with a letter or digit.",
        )
    if isinstance(value, bytes) and len(value) > SECRET_BYTES:
        raise EngineError(f"secret {name} has more than {SECRET_BYTES} bytes", remedy="Mount a file instead.")
    if isinstance(value, Path) and not value.is_absolute():
        raise EngineError(f"secret {name}: {value} is not an absolute path", remedy="Write the file's whole path.")
