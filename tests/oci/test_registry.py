"""Against a real registry."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from dockyard.errors import ImageError, ImageNotFoundError, RegistryError
from dockyard.oci.auth import Anonymous, Credentials, DockerConfig
from dockyard.oci.digest import digest_of
from dockyard.oci.image import Platform
from dockyard.oci.layout import Layout
from dockyard.oci.registry import Patience, Reference, Registry
from tests.oci.samples import AMD64, sample_image
from tests.support.registry import running_registry

QUICK = Patience(attempts=2, pause=0.01, silence=5, deadline=30)


def client():
    return Registry(Anonymous(), QUICK)


def stored(registry):
    return {path.parent.name for path in registry.storage.rglob("blobs/sha256/*/*/data")}


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_what_is_pushed_comes_back_the_same(registry, layout, tmp_path, codec):
    image = sample_image(layout, codec=codec)
    reference = Reference.parse(f"{registry.host}/models/iris:1")
    client().push(image, layout, reference)
    other = Layout.create(tmp_path / "other")
    assert client().pull(reference, AMD64, other) == image
    assert other.resolve(str(reference)) == image
    by_digest = Reference.parse(f"{registry.host}/models/iris@{image.digest}")
    assert client().pull(by_digest, None, Layout.create(tmp_path / "third")).digest == image.digest


def test_skopeo_sees_what_was_pushed(registry, layout):
    image = sample_image(layout)
    client().push(image, layout, Reference.parse(f"{registry.host}/iris:1"))
    told = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", f"docker://{registry.host}/iris:1"],
        check=True, capture_output=True, timeout=60,
    ).stdout  # fmt: skip
    assert json.loads(told)["Digest"] == image.digest


def test_an_image_of_skopeo_s_in_docker_s_format_is_pulled(registry, layout, tmp_path):
    image = sample_image(layout)
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--format", "v2s2", "--dest-tls-verify=false",
         f"oci:{layout.path}:iris:1", f"docker://{registry.host}/iris:docker"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    found = client().pull(Reference.parse(f"{registry.host}/iris:docker"), None, Layout.create(tmp_path / "other"))
    assert found.manifest.media_type == "application/vnd.docker.distribution.manifest.v2+json"
    assert found.config.diff_ids == image.config.diff_ids


def test_only_what_is_missing_is_sent(registry, layout):
    old = sample_image(layout)
    client().push(old, layout, Reference.parse(f"{registry.host}/iris:1"))
    before = {path: path.stat().st_mtime_ns for path in registry.storage.rglob("data")}
    new = sample_image(layout, "iris:2", code=b"print('two')\n")
    client().push(new, layout, Reference.parse(f"{registry.host}/iris:2"))
    after = {path: path.stat().st_mtime_ns for path in registry.storage.rglob("data")}
    assert before.items() <= after.items()
    new_blobs = {blob.digest for blob in new.blobs} - {blob.digest for blob in old.blobs}
    assert {f"sha256:{path.parent.name}" for path in after.keys() - before.keys()} == new_blobs


def test_another_platform_or_tag_is_not_found(registry, layout, tmp_path):
    client().push(sample_image(layout), layout, Reference.parse(f"{registry.host}/iris:1"))
    other = Layout.create(tmp_path / "other")
    with pytest.raises(ImageNotFoundError, match="linux/arm64"):
        client().pull(Reference.parse(f"{registry.host}/iris:1"), Platform("linux", "arm64"), other)
    with pytest.raises(RegistryError, match="answered 404") as caught:
        client().pull(Reference.parse(f"{registry.host}/iris:2"), None, other)
    assert "Check the name and the tag" in caught.value.remedy
    assert other.images() == ()


def test_the_digest_of_another_image_cannot_be_pushed_to(registry, layout):
    reference = Reference.parse(f"{registry.host}/iris@{digest_of(b'other')}")
    with pytest.raises(ImageError, match="is the digest of another image"):
        client().push(sample_image(layout), layout, reference)


def test_a_damaged_blob_is_not_pushed(registry, layout):
    image = sample_image(layout)
    path = layout.blobs.path(image.layers[0].digest)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises((ImageError, RegistryError)):
        client().push(image, layout, Reference.parse(f"{registry.host}/iris:1"))
    with pytest.raises(RegistryError, match="answered 404"):
        client().pull(Reference.parse(f"{registry.host}/iris:1"), None, Layout.create(layout.path / "other"))


def test_credentials_of_docker_login_open_a_registry(layout, tmp_path):
    htpasswd = "ada:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"  # open sesame
    with running_registry(tmp_path / "closed", htpasswd=htpasswd) as registry:
        reference = Reference.parse(f"{registry.host}/iris:1")
        image = sample_image(layout)
        with pytest.raises(RegistryError, match="answered 401") as caught:
            client().push(image, layout, reference)
        assert f"docker login {registry.host}" in caught.value.remedy
        auth = base64.b64encode(b"ada:open sesame").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
        ada = Registry(DockerConfig(tmp_path / "config.json"), QUICK)
        ada.push(image, layout, reference)
        assert ada.pull(reference, None, Layout.create(tmp_path / "other")) == image


def helper(folder: Path, answer: str, code: int = 0) -> None:
    program = folder / "docker-credential-test"
    program.write_text(f"#!/bin/sh\ncat > {folder}/asked\ncat <<'END'\n{answer}\nEND\nexit {code}\n")
    program.chmod(0o755)


@pytest.fixture
def with_helper(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "config.json").write_text('{"credHelpers":{"registry.example":"test"}}')
    return DockerConfig(tmp_path / "config.json")


def test_a_credential_helper_is_asked_for_the_registry(with_helper, tmp_path):
    helper(tmp_path, '{"ServerURL":"registry.example","Username":"ada","Secret":"hidden"}')
    found = with_helper.find("registry.example")
    assert found == Credentials("ada", "hidden")
    assert "hidden" not in repr(found)
    assert (tmp_path / "asked").read_text() == "registry.example"
    assert with_helper.find("other.example") is None


def test_a_helper_s_identity_token_is_told_from_a_password(with_helper, tmp_path):
    helper(tmp_path, '{"Username":"<token>","Secret":"hidden"}')
    assert with_helper.find("registry.example") == Credentials("<token>", "hidden", "identity token")


def test_a_helper_that_knows_nobody_means_nobody(with_helper, tmp_path):
    helper(tmp_path, "credentials not found in native keychain", 1)
    assert with_helper.find("registry.example") is None


@pytest.mark.parametrize(("answer", "code"), [("no JSON", 0), ("locked", 1)])
def test_a_helper_that_fails_is_named(with_helper, tmp_path, answer, code):
    helper(tmp_path, answer, code)
    with pytest.raises(RegistryError, match="docker-credential-test gave no credentials"):
        with_helper.find("registry.example")


@pytest.mark.parametrize("text", ["{", '{"auths":[]}', '{"auths":{"registry.example":{"auth":"%"}}}'])
def test_a_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RegistryError, match=r"config\.json cannot be read"):
        DockerConfig(tmp_path / "config.json").find("registry.example")


@pytest.mark.parametrize("key", ["registry.example", "https://registry.example/v1/", "http://registry.example"])
def test_entries_of_every_age_are_found(tmp_path, key):
    (tmp_path / "config.json").write_text(json.dumps({"auths": {key: {"username": "ada", "password": "x"}}}))
    environment = {"DOCKER_CONFIG": str(tmp_path)}
    assert DockerConfig.of_environment(environment).find("registry.example") == Credentials("ada", "x")


def test_without_a_configuration_there_is_nobody(tmp_path):
    assert DockerConfig(tmp_path / "missing.json").find("registry.example") is None
