"""Signatures and attestations: made, verified by us and by others, and every change noticed."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.signer import SSlibKey

from dockyard.errors import EvidenceError, ImageError
from dockyard.oci.artifact import Payload, attach
from dockyard.oci.digest import hex_of
from dockyard.oci.layout import Layout
from dockyard.supply.evidence import add_evidence, evidence_of
from dockyard.supply.sign import BUNDLE, SIMPLE_SIGNATURE, attest, sign_all
from dockyard.supply.statement import PROVENANCE, SBOM, SIGNED, TEST_RESULT, Statement
from dockyard.supply.verify import Form, require_signature, verify
from tests.oci.samples import sample_image

ROOT = Path(__file__).parents[2]
NAME = "registry.example.org/models/iris"


@pytest.fixture
def image(layout):
    return sample_image(layout)


@pytest.fixture
def signed(layout, image, key):
    add_evidence(layout, image.manifest, NAME, {PROVENANCE: {"buildDefinition": {"buildType": "test"}}})
    add_evidence(layout, image.manifest, NAME, {SBOM: {"bomFormat": "CycloneDX", "specVersion": "1.6"}})
    sign_all(layout, image.manifest, NAME, key)
    return image


def bundles(layout, image):
    return {
        artifact.annotations["dev.sigstore.bundle.predicateType"]: layout.blobs.read(artifact.layers[0].digest)
        for artifact in layout.referrers(image.digest, BUNDLE)
    }


def test_a_signed_image_verifies_in_both_forms_with_all_that_is_said_of_it(layout, signed, key):
    verdict = verify(layout, signed.digest, [key.public])
    require_signature(verdict)
    assert {one.form for one in verdict.signatures} == {Form.BUNDLE, Form.SIMPLE}
    assert verdict.attested(PROVENANCE)[0].predicate == {"buildDefinition": {"buildType": "test"}}
    assert verdict.attested(SBOM)[0].predicate["bomFormat"] == "CycloneDX"
    assert verdict.attested(TEST_RESULT) == ()
    assert verdict.untrusted == 0


def test_signing_again_adds_nothing(layout, signed, key):
    before = layout.referrers(signed.digest)
    sign_all(layout, signed.manifest, NAME, key)
    assert set(layout.referrers(signed.digest)) == set(before)


def test_two_keys_sign_side_by_side(layout, signed, key, stranger):
    sign_all(layout, signed.manifest, NAME, stranger)
    for public in (key.public, stranger.public):
        verdict = verify(layout, signed.digest, [public])
        assert {one.form for one in verdict.signatures} == {Form.BUNDLE, Form.SIMPLE}
        assert verdict.untrusted == 4
    assert verify(layout, signed.digest, [key.public, stranger.public]).untrusted == 0


def test_another_key_s_signature_does_not_count(layout, signed, stranger):
    verdict = verify(layout, signed.digest, [stranger.public])
    assert verdict.signatures == ()
    with pytest.raises(EvidenceError, match="not signed by a trusted key"):
        require_signature(verdict)


def test_without_a_trusted_key_nothing_is_verified(layout, signed):
    with pytest.raises(EvidenceError, match="no key is trusted"):
        verify(layout, signed.digest, [])


def test_an_attestation_is_no_signature(layout, image, key):
    attest(layout, image.manifest, Statement(NAME, image.digest, PROVENANCE, {}), key)
    verdict = verify(layout, image.digest, [key.public])
    assert len(verdict.attested(PROVENANCE)) == 1
    assert verdict.attested("https://slsa.dev/provenance/v1 ") == ()
    with pytest.raises(EvidenceError, match="not signed"):
        require_signature(verdict)


def test_a_signature_of_another_image_does_not_hold(layout, signed, key):
    other = sample_image(layout, "iris:2", code=b"other")
    for artifact in layout.referrers(signed.digest, BUNDLE):
        payload = Payload(BUNDLE, layout.blobs.read(artifact.layers[0].digest))
        layout.attach(attach(other.manifest, BUNDLE, [payload], artifact.annotations))
    with pytest.raises(EvidenceError, match="speaks of another image"):
        verify(layout, other.digest, [key.public])


def change(layout, image, edit):
    """Replace the image's signature bundle by an edited copy of it."""
    artifact = next(
        one for one in layout.referrers(image.digest, BUNDLE)
        if one.annotations["dev.sigstore.bundle.predicateType"] == SIGNED
    )  # fmt: skip
    document = json.loads(layout.blobs.read(artifact.layers[0].digest))
    edit(document["dsseEnvelope"])
    payload = Payload(BUNDLE, json.dumps(document).encode())
    layout.detach(artifact)
    layout.attach(attach(image.manifest, BUNDLE, [payload], artifact.annotations))


def flip(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "edit",
    [
        lambda envelope: envelope.update(payload=flip(envelope["payload"])),
        lambda envelope: envelope["signatures"][0].update(sig=flip(envelope["signatures"][0]["sig"])),
        lambda envelope: envelope.update(payloadType="application/json"),
        lambda envelope: envelope.update(signatures=[]),
        lambda envelope: envelope.update(signatures=envelope["signatures"] * 2),
        lambda envelope: envelope.update(payload="not base64"),
    ],
)
def test_a_changed_bundle_is_noticed(layout, signed, key, edit):
    change(layout, signed, edit)
    with pytest.raises(EvidenceError):
        verify(layout, signed.digest, [key.public])


def test_a_changed_cosign_payload_or_signature_does_not_count(layout, signed, key):
    (artifact,) = (one for one in layout.referrers(signed.digest) if one.tag.endswith(".sig"))
    layer = artifact.layers[0]
    broken = Payload(
        layer.media_type, layout.blobs.read(layer.digest), {SIMPLE_SIGNATURE: flip(layer.annotations[SIMPLE_SIGNATURE])}
    )
    layout.detach(artifact)
    layout.attach(attach(signed.manifest, artifact.type, [broken]))
    verdict = verify(layout, signed.digest, [key.public])
    assert [one.form for one in verdict.signatures] == [Form.BUNDLE]
    assert verdict.untrusted == 1


def test_every_damaged_blob_of_a_signature_is_noticed(layout, signed, key):
    for artifact in layout.referrers(signed.digest, BUNDLE):
        for blob in (artifact.manifest, artifact.layers[0]):
            path = layout.blobs.path(blob.digest)
            whole = path.read_bytes()
            path.write_bytes(whole.replace(b":", b";", 1))
            with pytest.raises(ImageError, match="damaged"):
                verify(layout, signed.digest, [key.public])
            path.write_bytes(whole)


def test_newer_evidence_takes_the_place_of_older(layout, image):
    for passed in (1, 2):
        add_evidence(layout, image.manifest, NAME, {TEST_RESULT: {"passed": passed}})
    (evidence,) = evidence_of(layout, image.digest, NAME)
    assert evidence.statement.predicate == {"passed": 2}


def test_the_libraries_of_sigstore_verify_our_bundles(layout, signed, key, stranger, tmp_path):
    found = bundles(layout, signed)
    assert set(found) == {SIGNED, PROVENANCE, SBOM}
    (tmp_path / "key.pub").write_text(key.public.pem)
    (tmp_path / "other.pub").write_text(stranger.public.pem)
    for number, bundle in enumerate(found.values()):
        (tmp_path / f"{number}.json").write_bytes(bundle)
        assert node(tmp_path / f"{number}.json", tmp_path / "key.pub").stdout.strip() == "verified"
        assert "VerificationError" in node(tmp_path / f"{number}.json", tmp_path / "other.pub").stderr


def node(bundle: Path, key_file: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "tests" / "support" / "verify_bundle.mjs"
    words = ["node", str(script), str(ROOT / ".setup" / "node"), str(bundle), str(key_file)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_securesystemslib_verifies_our_envelopes(layout, signed, key):
    for bundle in bundles(layout, signed).values():
        document = json.loads(bundle)["dsseEnvelope"]
        document["signatures"] = [{"keyid": "ours", **one} for one in document["signatures"]]
        theirs = SSlibKey("ours", "ecdsa", "ecdsa-sha2-nistp256", {"public": key.public.pem})
        assert TheirEnvelope.from_dict(document).verify([theirs], 1)


def test_the_older_form_is_what_cosign_reads(layout, signed, key, tmp_path):
    (artifact,) = (one for one in layout.referrers(signed.digest) if one.tag.endswith(".sig"))
    assert artifact.tag == f"sha256-{hex_of(signed.digest)}.sig"
    layer = artifact.layers[0]
    payload = layout.blobs.read(layer.digest)
    told = json.loads(payload)
    assert told["critical"]["image"] == {"docker-manifest-digest": signed.digest}
    assert told["critical"]["identity"] == {"docker-reference": NAME}
    assert told["optional"] is None
    assert json.loads(layout.blobs.read(artifact.config.digest))["rootfs"]["diff_ids"] == [layer.digest]
    (tmp_path / "key.pub").write_text(key.public.pem)
    (tmp_path / "payload").write_bytes(payload)
    (tmp_path / "signature").write_bytes(base64.b64decode(layer.annotations[SIMPLE_SIGNATURE]))
    words = ["openssl", "dgst", "-sha256", "-verify", "key.pub", "-signature", "signature", "payload"]
    assert b"Verified OK" in subprocess.run(words, cwd=tmp_path, capture_output=True, check=True, timeout=20).stdout


def test_a_signed_image_is_still_one_image_in_its_store(layout, signed):
    assert [named.image for named in Layout.open(layout.path).images()] == [signed]
