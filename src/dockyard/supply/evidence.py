"""What a build knows of its image, kept beside it: the bill of materials, how it was made, what its tests said.

Attached as it is at build, so that scanners find it without a key; `sign.py` signs it where it stands. Each kind of
evidence has one predicate type, and one document of it is current: attaching a newer one takes the older one's place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dockyard.errors import EvidenceError
from dockyard.oci.artifact import Artifact, Attachment, Payload, attach
from dockyard.oci.digest import Digest
from dockyard.oci.image import Descriptor
from dockyard.oci.layout import Layout
from dockyard.supply.statement import IN_TOTO, SBOM, Statement

CYCLONEDX = "application/vnd.cyclonedx+json"
PREDICATE_TYPE = "in-toto.io/predicate-type"


@dataclass(frozen=True)
class Evidence:
    """One document about an image, not yet signed, and the artifact that holds it."""

    statement: Statement
    artifact: Artifact


def add_evidence(
    layout: Layout, subject: Descriptor, name: str, documents: Mapping[str, Mapping[str, Any]]
) -> tuple[Artifact, ...]:
    """Attach documents by their kind (predicate type), all at once, each in place of the one there was of its kind.

    A bill of materials is attached as it is, anything else as the predicate of a statement.
    """
    made = [_attachment(subject, name, kind, predicate) for kind, predicate in documents.items()]
    artifacts = tuple(one.artifact for one in made)
    kept = {artifact.digest for artifact in artifacts}
    older = [one for one in _documents(layout, subject.digest) if one.annotations.get(PREDICATE_TYPE) in documents]
    layout.attach(*made, instead=[one for one in older if one.digest not in kept])
    return artifacts


def _attachment(subject: Descriptor, name: str, kind: str, predicate: Mapping[str, Any]) -> Attachment:
    if kind == SBOM:
        payload = Payload(CYCLONEDX, msgspec.json.encode(predicate, order="sorted"))
    else:
        payload = Payload(IN_TOTO, Statement(name, subject.digest, kind, predicate).encode())
    return attach(subject, payload.media_type, [payload], {PREDICATE_TYPE: kind})


def evidence_of(layout: Layout, subject: Digest, name: str) -> tuple[Evidence, ...]:
    """The documents about an image, by their kind; `name` is what a statement calls the image.

    EvidenceError when one of them cannot be read, or is about another image; ImageError when a blob is damaged.
    """
    found = [Evidence(_statement(layout, artifact, name), artifact) for artifact in _documents(layout, subject)]
    return tuple(sorted(found, key=lambda one: one.statement.predicate_type))


def _documents(layout: Layout, subject: Digest) -> list[Artifact]:
    return [artifact for artifact in layout.referrers(subject) if artifact.type in (IN_TOTO, CYCLONEDX)]


def _statement(layout: Layout, artifact: Artifact, name: str) -> Statement:
    data = layout.blobs.read(only_layer(artifact).digest)
    if artifact.type == CYCLONEDX:
        try:
            return Statement(name, artifact.subject.digest, SBOM, msgspec.json.decode(data, type=dict[str, Any]))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _broken(artifact, f"is no JSON object: {error}") from error
    statement = Statement.decode(data)
    if statement.subject != artifact.subject.digest:
        raise _broken(artifact, f"speaks of {statement.subject}")
    return statement


def only_layer(artifact: Artifact) -> Descriptor:
    """The one document of an artifact; EvidenceError when it has none or several."""
    if len(artifact.layers) != 1:
        raise _broken(artifact, f"has {len(artifact.layers)} documents, not one")
    return artifact.layers[0]


def _broken(artifact: Artifact, what: str) -> EvidenceError:
    return EvidenceError(
        f"{artifact.digest}, attached to {artifact.subject.digest}, {what}",
        remedy="Do not trust it; build the image again.",
    )
