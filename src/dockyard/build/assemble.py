"""Puts the layers together into an image: what runs, as whom, with which settings and labels.

The configuration written here is the contract that `berth` (environment) and `engines` (entry point, user, labels)
read; `docs/reference/image.md` describes it. Called by `builder`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dockyard import __version__
from dockyard.build.base import Base
from dockyard.build.dependencies import INSIDE
from dockyard.build.layers import BuiltLayer
from dockyard.build.settings import SLEEP_SOON, settings_of
from dockyard.build.writable import is_closed
from dockyard.oci.image import History, Image, ImageConfig, Platform, assemble
from dockyard.oci.layout import Layout
from dockyard.spec import labels
from dockyard.spec.project import Project
from dockyard.spec.resources import parse_bytes

USER = "65532:0"
CONTRACT = "1"


@dataclass(frozen=True)
class Parts:
    """All that an image is made of."""

    project: Project
    platform: Platform
    base: Base
    layers: Sequence[BuiltLayer]
    loaded: Sequence[str]
    """For each model, the file that its format loads."""
    created: str
    signature: str = ""
    """The label of what the models' files say of their inputs and outputs."""


def store_image(parts: Parts, layout: Layout) -> Image:
    """Assemble the image and store its two documents; it has no name yet."""
    config = ImageConfig(
        platform=parts.platform,
        environment=_environment(parts),
        entrypoint=(parts.base.python, "-m", "berth"),
        command=("serve",),
        user=USER,
        working_dir="/app",
        exposed_ports=(f"{parts.project.serve.port or 8080}/tcp",),
        stop_signal="SIGTERM",
        labels=_labels(parts.project) | ({labels.MODEL_SIGNATURE: parts.signature} if parts.signature else {}),
        created=parts.created,
        history=tuple(
            History(parts.created, created_by=f"dockyard {__version__}", comment=layer.title) for layer in parts.layers
        ),
    )
    image, manifest, document = assemble(config, [layer.blob for layer in parts.layers], _annotations(parts))
    layout.store(document, manifest)
    return image


def _environment(parts: Parts) -> tuple[str, ...]:
    path = f"{INSIDE}/bin:/usr/local/bin:/usr/bin:/bin"
    settings: dict[str, str] = {
        **_inherited(parts.base.environment),
        "PATH": path,
        "PYTHONPATH": f"/app:/opt/berth:{INSIDE}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",  # noqa: S108 (the one writable place of a container: a tmpfs of its own)
        "XDG_CACHE_HOME": "/tmp/cache",  # noqa: S108
        "LANG": "C.UTF-8",
        **SLEEP_SOON,
        **settings_of(parts.project, parts.loaded, PurePosixPath("/app")),
    }
    return tuple(f"{name}={value}" for name, value in sorted(settings.items()))


def _inherited(environment: Sequence[str]) -> dict[str, str]:
    """The base's variables, without the settings of a model that it may serve itself, and without caches outside of
    what a container can write to (an image's own files may be served from there, so hubs stay).
    """
    variables = dict(entry.partition("=")[::2] for entry in environment)
    return {
        name: value for name, value in variables.items() if not name.startswith("BERTH_") and not is_closed(name, value)
    }


def _labels(project: Project) -> dict[str, str]:
    return {
        labels.MODEL_NAME: project.model.name,
        labels.MODEL_VERSION: project.model.version,
        labels.CONTRACT: CONTRACT,
        labels.MEMORY: str(parse_bytes(project.run.memory)),
        labels.CPUS: f"{project.run.cpus:g}",
        labels.PIDS: str(project.run.pids),
    }


def _annotations(parts: Parts) -> Mapping[str, str]:
    model = parts.project.model
    annotations = {
        "org.opencontainers.image.title": model.name,
        "org.opencontainers.image.version": model.version,
        "org.opencontainers.image.created": parts.created,
    }
    if model.description:
        annotations["org.opencontainers.image.description"] = model.description
    return annotations
