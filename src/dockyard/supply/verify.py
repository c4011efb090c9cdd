"""Checks what is attached to an image against keys that the caller trusts.

Each role has exactly one predicate type: an attestation never counts as a signature, nor one kind for another. What
verifies is told with its key; what a trusted key signed and no longer fits is an error; what nobody trusted signed
does not count. `dockyard verify` calls it, and so will everything that starts only what is signed.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from dockyard.errors import EvidenceError
from dockyard.oci.artifact import Artifact
from dockyard.oci.digest import Digest
from dockyard.oci.layout import Layout
from dockyard.oci.media import COSIGN_SIGNATURE
from dockyard.supply.evidence import only_layer
from dockyard.supply.keys import PublicKey
from dockyard.supply.sign import BUNDLE, SIMPLE, SIMPLE_SIGNATURE, SIMPLE_TYPE
from dockyard.supply.statement import IN_TOTO, SIGNED, Envelope, Statement, unbase64

_T = TypeVar("_T")


class Form(enum.Enum):
    """How something is signed."""

    BUNDLE = "sigstore bundle"
    SIMPLE = "cosign signature"


@dataclass(frozen=True)
class Verified:
    """Something that a trusted key has signed; `statement` is what, and None in the older form."""

    form: Form
    key: PublicKey
    artifact: Artifact
    statement: Statement | None = None


@dataclass(frozen=True)
class Verdict:
    """What holds of an image, and how much was signed by keys that are not trusted."""

    subject: Digest
    signatures: tuple[Verified, ...]
    attestations: tuple[Verified, ...]
    untrusted: int

    def attested(self, predicate_type: str) -> tuple[Statement, ...]:
        """The trusted statements of exactly one kind."""
        told = (one.statement for one in self.attestations)
        return tuple(one for one in told if one is not None and one.predicate_type == predicate_type)


def verify(layout: Layout, subject: Digest, keys: Sequence[PublicKey]) -> Verdict:
    """Verify everything that is attached to an image.

    EvidenceError when something with a trusted key's name on it does not hold, or cannot be read; ImageError when a
    blob is damaged.
    """
    if not keys:
        raise EvidenceError(
            "no key is trusted here, so nothing can be verified",
            remedy="Name one with --key, or put its public half into the keys' `trusted` folder.",
        )
    artifacts = layout.referrers(subject)
    bundles = [artifact for artifact in artifacts if artifact.type == BUNDLE]
    simple = [artifact for artifact in artifacts if artifact.type == COSIGN_SIGNATURE]
    found = [_bundle(layout, artifact, keys) for artifact in bundles]
    found += [one for artifact in simple for one in _simple(layout, artifact, keys)]
    verified = [one for one in found if one is not None]
    return Verdict(
        subject,
        signatures=tuple(one for one in verified if _is_signature(one)),
        attestations=tuple(one for one in verified if not _is_signature(one)),
        untrusted=len(found) - len(verified),
    )


def require_signature(verdict: Verdict) -> None:
    """EvidenceError unless a trusted key has signed the image itself."""
    if verdict.signatures:
        return
    told = f"{verdict.untrusted} signatures by other keys" if verdict.untrusted else "no signature at all"
    raise EvidenceError(
        f"{verdict.subject} is not signed by a trusted key (it has {told})",
        remedy="Sign it with `dockyard sign`, pull what is attached to it, or name the key it was signed with.",
    )


def _is_signature(one: Verified) -> bool:
    return one.statement is None or one.statement.predicate_type == SIGNED


def _bundle(layout: Layout, artifact: Artifact, keys: Sequence[PublicKey]) -> Verified | None:
    bundle = _read(layout.blobs.read(only_layer(artifact).digest), _BundleWire, artifact)
    key = next((key for key in keys if key.hint == bundle.verification_material.public_key.hint), None)
    if key is None:
        return None
    envelope = Envelope.of_document(bundle.dsse_envelope)
    if envelope.payload_type != IN_TOTO:
        raise _broken(artifact, f"signs a payload of type {envelope.payload_type[:100]!r}")
    if not key.verifies(envelope.signature, envelope.signed):
        raise _broken(artifact, "was changed after it was signed, or was not signed with the key that it names")
    statement = Statement.decode(envelope.payload)
    if statement.subject != artifact.subject.digest:
        raise _broken(artifact, f"is signed, but speaks of another image, {statement.subject}")
    return Verified(Form.BUNDLE, key, artifact, statement)


def _simple(layout: Layout, artifact: Artifact, keys: Sequence[PublicKey]) -> Iterator[Verified | None]:
    for layer in artifact.layers:
        if layer.media_type != SIMPLE:
            raise _broken(artifact, f"has a layer of type {layer.media_type[:100]!r}")
        payload = layout.blobs.read(layer.digest)
        signature = unbase64(layer.annotations.get(SIMPLE_SIGNATURE, ""))
        told = _read(payload, _SimpleWire, artifact).critical
        if told.type != SIMPLE_TYPE or told.image.digest != artifact.subject.digest:
            raise _broken(artifact, "is a signature of something else")
        key = next((key for key in keys if key.verifies(signature, payload)), None)
        yield Verified(Form.SIMPLE, key, artifact) if key else None


class _PublicKeyWire(msgspec.Struct, frozen=True):
    hint: str


class _MaterialWire(msgspec.Struct, frozen=True, rename="camel"):
    public_key: _PublicKeyWire


class _BundleWire(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    verification_material: _MaterialWire
    dsse_envelope: dict[str, Any]


class _SimpleImageWire(msgspec.Struct, frozen=True):
    digest: str = msgspec.field(name="docker-manifest-digest")


class _CriticalWire(msgspec.Struct, frozen=True):
    image: _SimpleImageWire
    type: str


class _SimpleWire(msgspec.Struct, frozen=True):
    critical: _CriticalWire


def _read(data: bytes, kind: type[_T], artifact: Artifact) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(artifact, f"cannot be read: {error}") from error


def _broken(artifact: Artifact, what: str) -> EvidenceError:
    return EvidenceError(
        f"{artifact.digest}, attached to {artifact.subject.digest}, {what}",
        remedy="Do not run this image. Fetch it again from where you trust it.",
    )
