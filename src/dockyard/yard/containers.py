"""A replica as its engine is to start it: from the revision's settings and the image's labels. Pure.

`fleet` starts what this makes; `admission` makes it too, to find what cannot be started before anything changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dockyard.engines.base import ContainerSpec
from dockyard.oci.image import Image
from dockyard.spec.deployment import Deployment
from dockyard.spec.labels import CONTRACT, limits
from dockyard.spec.resources import Resources, parse_bytes

SELFTEST = "BERTH_SELFTEST"


def container_of(
    settings: Deployment, image: Image, image_name: str, replica: str, labels: Mapping[str, str]
) -> ContainerSpec:
    """What to start for a replica; EngineError, naming the rule, for what no engine may do."""
    environment = dict(settings.environment)
    if is_ours(image) and settings.probes.goldens:
        environment[SELFTEST] = "on"
    return ContainerSpec(
        name=replica,
        image=image,
        image_name=image_name,
        command=settings.server.command,
        environment=environment,
        resources=limits_of(settings, image),
        labels=labels,
        mounts=settings.mounts,
        secrets={name: Path(source) for name, source in settings.secrets.items()},
        gpus=settings.resources.gpus,
        network=settings.network.egress,
        tcp_port=0 if is_ours(image) else settings.server.port,
    )


def is_ours(image: Image) -> bool:
    """Whether the server in the image is berth, which takes its socket from us."""
    return CONTRACT in image.config.labels


def limits_of(settings: Deployment, image: Image) -> Resources:
    """The limits that the deployment asks for, else those that the image's labels say, else the defaults."""
    asked = settings.resources
    memory = parse_bytes(asked.memory) if asked.memory else 0
    return limits(image.config.labels, memory, asked.cpus, asked.pids)
