"""What is said of an image: in-toto statements, and the envelope (DSSE) in which they are signed.

A statement names its subject by digest and says one thing of it, of the kind that `predicateType` names. `sign.py`
wraps statements, `verify.py` opens them. Pure. Sources: in-toto attestation framework v1; DSSE v1.0.2.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from dockyard.errors import EvidenceError
from dockyard.oci.digest import Digest, hex_of, parse_digest

IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"

SIGNED = "https://sigstore.dev/cosign/sign/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SBOM = "https://cyclonedx.org/bom"
SCAN = "https://cosign.sigstore.dev/attestation/vuln/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
MODEL_CARD = "https://dockyard.dev/attestation/model-card/v1"

# What people call each kind of document.
KINDS: Mapping[str, str] = {
    "provenance": PROVENANCE,
    "sbom": SBOM,
    "scan": SCAN,
    "tests": TEST_RESULT,
    "model-card": MODEL_CARD,
}


@dataclass(frozen=True)
class Statement:
    """One thing said of one image."""

    name: str
    subject: Digest
    predicate_type: str
    predicate: Mapping[str, Any]

    def encode(self) -> bytes:
        """Canonical JSON: the same statement gives the same bytes."""
        document = {
            "_type": STATEMENT,
            "subject": [{"name": self.name, "digest": {"sha256": hex_of(self.subject)}}],
            "predicateType": self.predicate_type,
            "predicate": self.predicate,
        }
        return msgspec.json.encode(document, order="sorted")

    @classmethod
    def decode(cls, data: bytes) -> Statement:
        """Read a statement; EvidenceError when it is none, or names more than one subject."""
        told = _decode(data, _StatementWire, "a statement")
        if told.type_ != STATEMENT:
            raise _no(f"a statement of type {told.type_[:100]!r}, not {STATEMENT}")
        if len(told.subject) != 1 or set(told.subject[0].digest) != {"sha256"}:
            raise _no("a statement that does not name one subject by its SHA-256")
        digest = parse_digest("sha256:" + told.subject[0].digest["sha256"])
        return cls(told.subject[0].name, digest, told.predicate_type, told.predicate)


@dataclass(frozen=True)
class Envelope:
    """A payload with one signature over it."""

    payload: bytes
    signature: bytes
    payload_type: str = IN_TOTO

    @property
    def signed(self) -> bytes:
        """The bytes that the signature covers."""
        return signing_bytes(self.payload_type, self.payload)

    def document(self) -> dict[str, Any]:
        """As it is written in JSON."""
        return {
            "payload": base64.b64encode(self.payload).decode("ascii"),
            "payloadType": self.payload_type,
            "signatures": [{"sig": base64.b64encode(self.signature).decode("ascii")}],
        }

    @classmethod
    def of_document(cls, value: Any) -> Envelope:
        """Check a decoded envelope; EvidenceError when it is none, or has not exactly one signature."""
        try:
            told = msgspec.convert(value, _EnvelopeWire)
        except msgspec.ValidationError as error:
            raise _no(f"an envelope that cannot be read: {error}") from error
        if len(told.signatures) != 1:
            raise _no(f"an envelope with {len(told.signatures)} signatures, not one")
        return cls(unbase64(told.payload), unbase64(told.signatures[0].sig), told.payload_type)


def signing_bytes(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: type and payload with their lengths, so that neither runs into the other."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def unbase64(text: str) -> bytes:
    """Strict base64; EvidenceError when it is something else."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _no("a part that is not base64") from error


class _SubjectWire(msgspec.Struct, frozen=True):
    digest: dict[str, str]
    name: str = ""


class _StatementWire(msgspec.Struct, frozen=True, rename="camel"):
    type_: str = msgspec.field(name="_type")
    subject: list[_SubjectWire]
    predicate_type: str
    predicate: dict[str, Any]


class _SignatureWire(msgspec.Struct, frozen=True):
    sig: str


class _EnvelopeWire(msgspec.Struct, frozen=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: list[_SignatureWire]


def _decode(data: bytes, kind: type[_StatementWire], what: str) -> _StatementWire:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _no(f"{what} that cannot be read: {error}") from error


def _no(what: str) -> EvidenceError:
    return EvidenceError(f"evidence holds {what}", remedy="Do not trust it; sign the image again.")
