"""What is attached to images: in a layout, and in a real registry that knows no referrers API."""

from __future__ import annotations

import json
import subprocess

import pytest

from dockyard.errors import ImageError
from dockyard.oci.artifact import Artifact, Payload, attach
from dockyard.oci.auth import Anonymous
from dockyard.oci.digest import digest_of, hex_of
from dockyard.oci.layout import Layout
from dockyard.oci.registry import Patience, Reference, Registry
from tests.oci.samples import sample_image

KIND = "application/vnd.example.report.v1+json"
REPORT = Payload("application/json", b'{"passed":true}', {"org.example.note": "a note"})


def attached(layout, image, kind=KIND, data=REPORT.data):
    attachment = attach(image.manifest, kind, [Payload("application/json", data)], {"org.example.made": "by a test"})
    layout.attach(attachment)
    return attachment.artifact


def client():
    return Registry(Anonymous(), Patience(attempts=2, pause=0.01, silence=5, deadline=30))


def test_an_artifact_is_the_same_bytes_each_time_and_reads_back(layout):
    image = sample_image(layout)
    first = attach(image.manifest, KIND, [REPORT], {"b": "2", "a": "1"})
    again = attach(image.manifest, KIND, [REPORT], {"a": "1", "b": "2"})
    assert first.documents == again.documents
    assert Artifact.decode(first.artifact.manifest, first.documents[-1]) == first.artifact
    document = json.loads(first.documents[-1])
    assert document["artifactType"] == KIND
    assert document["subject"]["digest"] == image.digest
    assert document["config"]["digest"] == digest_of(b"{}")


def test_an_image_tells_what_refers_to_it(layout):
    image, other = sample_image(layout, "iris:1"), sample_image(layout, "iris:2", code=b"other")
    report = attached(layout, image)
    signature = attached(layout, image, "application/vnd.example.signature")
    attached(layout, other)
    assert set(layout.referrers(image.digest)) == {report, signature}
    assert layout.referrers(image.digest, KIND) == (report,)
    assert layout.referrers(report.digest) == ()
    assert layout.blobs.read(report.layers[0].digest) == REPORT.data


def test_attaching_twice_lists_it_once(layout):
    image = sample_image(layout)
    assert attached(layout, image) == attached(layout, image)
    assert len(layout.referrers(image.digest)) == 1


def test_artifacts_are_no_images(layout):
    image = sample_image(layout)
    report = attached(layout, image)
    assert [named.image for named in layout.images()] == [image]
    with pytest.raises(ImageError, match="no image to run"):
        layout.load(report.manifest)


def test_nothing_is_attached_to_an_image_that_is_not_here(layout, tmp_path):
    image = sample_image(Layout.create(tmp_path / "elsewhere"))
    with pytest.raises(ImageError, match="not whole"):
        attached(layout, image)
    assert layout.referrers(image.digest) == ()


def test_artifacts_go_with_their_image(layout):
    image, other = sample_image(layout, "iris:1"), sample_image(layout, "iris:2", code=b"other")
    report, kept = attached(layout, image, data=b'"gone"'), attached(layout, other, data=b'"kept"')
    about_the_report = attached(layout, report, data=b'"of it"')
    layout.remove("iris:1")
    layout.sweep(age=0)
    assert layout.referrers(image.digest) == ()
    assert layout.referrers(other.digest) == (kept,)
    assert not layout.blobs.has(report.layers[0].digest)
    assert not layout.blobs.has(about_the_report.digest)
    assert layout.blobs.has(kept.layers[0].digest)


def test_what_has_no_subject_is_no_artifact(layout):
    image = sample_image(layout)
    with pytest.raises(ImageError, match="attached to nothing"):
        Artifact.decode(image.manifest, layout.blobs.read(image.digest))


def test_artifacts_travel_through_a_registry(registry, layout, tmp_path):
    image = sample_image(layout)
    reference = Reference.parse(f"{registry.host}/models/iris:1")
    report = attached(layout, image)
    about = attached(layout, report, "application/vnd.example.signature")
    client().push(image, layout, reference)
    assert client().push_artifacts([report, about], layout, reference) > 0
    client().push_artifacts([attached(layout, image, data=b'"second"')], layout, reference)

    other = Layout.create(tmp_path / "other")
    client().pull(reference, None, other)
    pulled = client().pull_artifacts(reference, image.digest, other)
    assert {one.digest for one in pulled} == {one.digest for one in layout.referrers(image.digest)} | {about.digest}
    assert set(other.referrers(image.digest)) == set(layout.referrers(image.digest))
    assert other.referrers(report.digest) == (about,)
    assert other.blobs.read(report.layers[0].digest) == REPORT.data


def test_pushing_again_sends_no_payload_and_lists_nothing_twice(registry, layout):
    image = sample_image(layout)
    reference = Reference.parse(f"{registry.host}/iris:1")
    report = attached(layout, image)
    client().push(image, layout, reference)
    client().push_artifacts([report], layout, reference)
    assert client().push_artifacts([report], layout, reference) == report.manifest.size
    listed = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false",
         f"docker://{registry.host}/iris:sha256-{hex_of(image.digest)}"],
        check=True, capture_output=True, timeout=60,
    ).stdout  # fmt: skip
    entries = json.loads(listed)["manifests"]
    assert [(entry["digest"], entry["artifactType"]) for entry in entries] == [(report.digest, KIND)]
    assert entries[0]["annotations"] == {"org.example.made": "by a test"}


def test_tags_are_those_of_images(registry, layout):
    image = sample_image(layout)
    for tag in ("1", "latest", "sha256-notes"):
        client().push(image, layout, Reference.parse(f"{registry.host}/iris:{tag}"))
    client().push_artifacts([attached(layout, image)], layout, Reference.parse(f"{registry.host}/iris:1"))
    assert client().tags(Reference.parse(f"{registry.host}/iris")) == ("1", "latest", "sha256-notes")
