"""Signs an image and what is said of it, in the two forms that others verify.

A Sigstore bundle (a signed statement, attached to the image) for each document, and for the image itself also the
older form of cosign: a signed payload under the tag `sha256-<hex>.sig`. `dockyard sign` calls it.
Sources: Sigstore bundle format v0.3; cosign's simple signing (SIGNATURE_SPEC.md).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec

from dockyard.oci.artifact import Artifact, Payload, attach
from dockyard.oci.digest import digest_of
from dockyard.oci.image import Descriptor
from dockyard.oci.layout import Layout
from dockyard.oci.media import COSIGN_SIGNATURE, OCI_CONFIG
from dockyard.supply.evidence import evidence_of
from dockyard.supply.keys import PrivateKey
from dockyard.supply.statement import IN_TOTO, SIGNED, Envelope, Statement, signing_bytes

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
CONTENT = "dev.sigstore.bundle.content"
PREDICATE = "dev.sigstore.bundle.predicateType"
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIMPLE_SIGNATURE = "dev.cosignproject.cosign/signature"
SIMPLE_TYPE = "cosign container image signature"


def sign_all(layout: Layout, subject: Descriptor, name: str, key: PrivateKey) -> tuple[Artifact, ...]:
    """Sign an image, in both forms, and every document about it that is here; returns what was attached.

    `name` (a repository, without tag) is what the signatures call the image. Signing again adds nothing.
    """
    signed = [sign_image(layout, subject, name, key), sign_simply(layout, subject, name, key)]
    signed += [attest(layout, subject, one.statement, key) for one in evidence_of(layout, subject.digest, name)]
    return tuple(signed)


def sign_image(layout: Layout, subject: Descriptor, name: str, key: PrivateKey) -> Artifact:
    """Attach a bundle that says nothing but that the image is signed."""
    return attest(layout, subject, Statement(name, subject.digest, SIGNED, {}), key)


def attest(layout: Layout, subject: Descriptor, statement: Statement, key: PrivateKey) -> Artifact:
    """Attach a bundle with a signed statement, in place of an older one of its kind by the same key.

    Verifiers that look at any bundle take an attestation for a signature, so an image that is attested is signed too.
    """
    payload = statement.encode()
    envelope = Envelope(payload, key.sign(signing_bytes(IN_TOTO, payload)))
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key.public.hint}, "tlogEntries": []},
        "dsseEnvelope": envelope.document(),
    }
    annotations = {CONTENT: "dsse-envelope", PREDICATE: statement.predicate_type}
    made = attach(subject, BUNDLE, [Payload(BUNDLE, msgspec.json.encode(bundle, order="sorted"))], annotations)
    layout.attach(made)
    for older in layout.referrers(subject.digest, BUNDLE):
        same_kind = older.annotations.get(PREDICATE) == statement.predicate_type
        if older.digest != made.artifact.digest and same_kind and _signed_by(layout, older, key):
            layout.detach(older)
    return made.artifact


def _signed_by(layout: Layout, artifact: Artifact, key: PrivateKey) -> bool:
    """Whether a bundle names this key."""
    return key.public.hint.encode() in layout.blobs.read(artifact.layers[0].digest)


def sign_simply(layout: Layout, subject: Descriptor, name: str, key: PrivateKey) -> Artifact:
    """Attach the older form; signatures by other keys stay in it."""
    payload = msgspec.json.encode(
        {
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": subject.digest},
                "type": SIMPLE_TYPE,
            },
            "optional": None,
        }
    )
    signature = base64.b64encode(key.sign(payload)).decode("ascii")
    own = Payload(SIMPLE, payload, {SIMPLE_SIGNATURE: signature})
    older = layout.referrers(subject.digest, COSIGN_SIGNATURE)
    payloads = _others(layout, older, own)
    made = attach(subject, COSIGN_SIGNATURE, [*payloads, own], config=_config([*payloads, own]))
    layout.attach(made)
    for artifact in older:
        if artifact.digest != made.artifact.digest:
            layout.detach(artifact)
    return made.artifact


def _others(layout: Layout, older: Sequence[Artifact], own: Payload) -> list[Payload]:
    kept = [
        Payload(layer.media_type, layout.blobs.read(layer.digest), layer.annotations)
        for artifact in older
        for layer in artifact.layers
    ]
    return [
        payload for payload in kept if payload.annotations.get(SIMPLE_SIGNATURE) != own.annotations[SIMPLE_SIGNATURE]
    ]


def _config(payloads: Sequence[Payload]) -> Payload:
    """An image configuration that names the payloads, since readers of this form expect an image."""
    diff_ids = [digest_of(payload.data) for payload in payloads]
    document = {
        "architecture": "",
        "os": "",
        "created": "0001-01-01T00:00:00Z",
        "config": {},
        "history": [],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    return Payload(OCI_CONFIG, msgspec.json.encode(document, order="sorted"))
