from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dockyard.errors import ImageError, ImageNotFoundError
from dockyard.oci.digest import digest_of, digest_of_file, parse_digest
from dockyard.oci.image import Descriptor, Image, ImageConfig, LayerBlob, Platform, assemble, choose_platform
from tests.oci.samples import AMD64, CONFIG, GZIP_LAYER

DIGEST = digest_of(b"layer")


def test_a_digest_names_bytes_and_files_alike(tmp_path):
    (tmp_path / "file").write_bytes(b"layer")
    assert digest_of_file(tmp_path / "file") == DIGEST == parse_digest(DIGEST)


@pytest.mark.parametrize(
    "text", ["", "sha256:abc", "sha512:" + "a" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 64 + "\n"]
)
def test_what_is_no_digest_is_refused(text):
    with pytest.raises(ImageError, match="is not a digest"):
        parse_digest(text)


@pytest.mark.parametrize(
    ("text", "platform"),
    [("linux/amd64", Platform("linux", "amd64")), ("linux/arm64/v8", Platform("linux", "arm64", "v8"))],
)
def test_platforms_are_read_and_written(text, platform):
    assert Platform.parse(text) == platform
    assert str(platform) == text


@pytest.mark.parametrize("text", ["", "linux", "linux/", "linux/amd64/v1/x", "linux/am d64"])
def test_what_is_no_platform_is_refused(text):
    with pytest.raises(ImageError, match="is not a platform"):
        Platform.parse(text)


def test_a_configuration_survives_encoding():
    complete = replace(CONFIG, diff_ids=(DIGEST,))
    assert ImageConfig.decode(complete.encode()) == complete


def test_encoding_does_not_depend_on_the_order_of_labels():
    one = replace(CONFIG, labels={"a": "1", "b": "2"})
    other = replace(CONFIG, labels={"b": "2", "a": "1"})
    assert one.encode() == other.encode()


def test_fields_that_have_no_name_here_survive_a_change():
    foreign = {
        "architecture": "amd64",
        "os": "linux",
        "os.version": "6",
        "author": "somebody",
        "config": {"Env": None, "Healthcheck": {"Test": ["NONE"]}, "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    }
    config = replace(ImageConfig.decode(json.dumps(foreign).encode()), user="1:0", command=())
    document = json.loads(config.encode())
    assert document["author"] == "somebody"
    assert document["os.version"] == "6"
    assert document["config"] == {"Healthcheck": {"Test": ["NONE"]}, "User": "1:0"}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"architecture":1}', b'{"os":"linux","architecture":"amd64"}', b"[" * 100_000, b"\xff"]
)
def test_a_configuration_that_is_none_is_refused(data):
    with pytest.raises(ImageError, match="the image configuration cannot be read"):
        ImageConfig.decode(data)


def test_layers_become_an_image_whose_documents_decode_to_it_again():
    layer = LayerBlob(Descriptor(GZIP_LAYER, DIGEST, 5), digest_of(b"tar"), 1, 3)
    made = assemble(CONFIG, [layer], {"org.opencontainers.image.title": "iris"})
    assert Image.decode(made.image.manifest, made.manifest, made.config) == made.image
    assert made.image.digest == digest_of(made.manifest)
    assert made.image.image_id == digest_of(made.config)
    assert made.image.size == 5 + len(made.manifest) + len(made.config)
    assert made.image.layer_blobs[0].diff_id == layer.diff_id


def test_layers_of_a_docker_base_get_the_media_types_of_oci():
    docker = Descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", DIGEST, 5)
    made = assemble(CONFIG, [LayerBlob(docker, DIGEST)])
    assert made.image.layers[0].media_type == GZIP_LAYER


def test_a_document_that_is_manifest_and_index_at_once_is_refused():
    made = assemble(CONFIG, [])
    both = json.dumps({**json.loads(made.manifest), "manifests": []}).encode()
    with pytest.raises(ImageError, match="at once"):
        Image.decode(made.image.manifest, both, made.config)


def test_an_image_whose_configuration_names_other_layers_is_refused():
    made = assemble(CONFIG, [LayerBlob(Descriptor(GZIP_LAYER, DIGEST, 5), DIGEST)])
    with pytest.raises(ImageError, match="has 1 layers, its configuration names 0"):
        Image.decode(made.image.manifest, made.manifest, CONFIG.encode())


def test_the_platform_asked_for_is_chosen_and_attachments_are_not():
    def candidate(platform, **more):
        return Descriptor("m", digest_of(str(platform).encode()), 1, platform=platform, **more)

    arm, amd = candidate(Platform("linux", "arm64", "v8")), candidate(AMD64)
    attached = candidate(Platform("unknown", "unknown"))
    several = [attached, arm, amd]
    assert choose_platform(several, Platform("linux", "arm64"), "x") is arm
    assert choose_platform(several, AMD64, "x") is amd
    assert choose_platform([attached, arm], None, "x") is arm
    with pytest.raises(ImageNotFoundError, match="linux/amd64, linux/arm64/v8"):
        choose_platform(several, Platform("linux", "s390x"), "x")
