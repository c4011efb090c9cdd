"""What a replica's container says of itself in its labels: enough to make a lost store anew.

`act` puts them on, `observe` knows its own containers by them, and `rebuild` reads them all after a disaster. Pure,
both ways. An image can bring labels of its own; a container counts only if its name is the replica's id too, and names
are given by who starts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from dockyard.errors import ImageError, YardError
from dockyard.oci.digest import Digest, parse_digest
from dockyard.spec.deployment import Deployment
from dockyard.yard.records import Origin, RevisionRecord, encode_settings

YARD = "dev.dockyard.yard"
DEPLOYMENT = "dev.dockyard.yard.deployment"
REVISION = "dev.dockyard.yard.revision"
REPLICA = "dev.dockyard.yard.replica"
SETTINGS = "dev.dockyard.yard.settings"
IMAGE_DIGEST = "dev.dockyard.yard.image-digest"
IMAGE_NAME = "dev.dockyard.yard.image-name"
MEMORY = "dev.dockyard.yard.memory"
WANTED = "dev.dockyard.yard.wanted"
CREATED = "dev.dockyard.yard.created"
WHO = "dev.dockyard.yard.who"
WHY = "dev.dockyard.yard.why"


@dataclass(frozen=True)
class ReplicaLabels:
    """A replica as its container tells it. `wanted`: replicas that were asked for when it was made."""

    yard: str
    replica: str
    deployment: str
    revision: int
    settings: Deployment
    image_digest: Digest
    image_name: str
    memory: int
    origin: Origin
    created: float
    wanted: int


def labels_of(yard: str, replica: str, revision: RevisionRecord, wanted: int) -> dict[str, str]:
    """The labels of a replica's container."""
    return {
        YARD: yard,
        DEPLOYMENT: revision.deployment,
        REVISION: str(revision.number),
        REPLICA: replica,
        SETTINGS: encode_settings(revision.settings),
        IMAGE_DIGEST: revision.image_digest,
        IMAGE_NAME: revision.image_name,
        MEMORY: str(revision.memory),
        WANTED: str(wanted),
        CREATED: repr(revision.created),
        WHO: revision.origin.who,
        WHY: revision.origin.why,
    }


def read_labels(labels: Mapping[str, str], name: str) -> ReplicaLabels | None:
    """What a container named `name` tells; None when it is no replica of a yard; YardError when they are wrong."""
    if YARD not in labels or labels.get(REPLICA) != name:
        return None
    try:
        settings = msgspec.json.decode(labels[SETTINGS], type=Deployment)
        read = ReplicaLabels(
            yard=labels[YARD],
            replica=name,
            deployment=labels[DEPLOYMENT],
            revision=int(labels[REVISION]),
            settings=settings,
            image_digest=parse_digest(labels[IMAGE_DIGEST]),
            image_name=labels[IMAGE_NAME],
            memory=int(labels[MEMORY]),
            origin=Origin(labels[WHO], labels[WHY]),
            created=float(labels[CREATED]),
            wanted=int(labels[WANTED]),
        )
    except (KeyError, ValueError, ImageError, msgspec.MsgspecError) as error:
        raise _wrong(name, str(error)) from error
    if read.revision < 1 or read.memory < 0 or read.wanted < 0 or settings.name != read.deployment:
        raise _wrong(name, "they contradict each other")
    return read


def _wrong(name: str, why: str) -> YardError:
    return YardError(
        f"the labels of container {name[:80]} are not those of a replica: {why[:200]}",
        remedy="If it is not yours, remove it; else deploy it anew.",
    )
