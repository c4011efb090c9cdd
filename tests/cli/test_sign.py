"""Keys and signatures as a user handles them: keygen, sign, push, pull elsewhere, verify, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dockyard.build.builder import Built
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.oci.samples import sample_image
from tests.support.projects import MANIFEST, CommandLine, build_in, write_adder
from tests.support.registry import running_registry


@pytest.fixture
def line(tmp_path: Path) -> CommandLine:
    """The command line in a home of its own, with an image `iris:1` and a password for keys."""
    home = Home(tmp_path / "home")
    sample_image(Layout.create(home.images))
    return CommandLine(home, {"DOCKYARD_KEY_PASSWORD": "open sesame"})


def test_a_signed_image_is_pushed_pulled_and_verified_elsewhere(line: CommandLine, tmp_path: Path) -> None:
    made = line("keygen")
    assert made.returncode == 0, made.stderr
    assert "open sesame" not in made.stdout
    assert "iris:1 signed" in line("sign", "iris:1").stdout
    assert "is whole: linux/amd64, 2 layers" in line("verify", "iris:1").stdout
    elsewhere = CommandLine(Home(tmp_path / "elsewhere"))
    with running_registry(tmp_path / "registry") as registry:
        reference = f"{registry.host}/models/iris:1"
        assert "2 attached documents" in line("push", "iris:1", reference).stdout
        assert "2 attached documents" in elsewhere("pull", reference, "-t", "iris:1").stdout
    untrusted = elsewhere("verify", "iris:1")
    assert untrusted.returncode == 1
    assert "no key is trusted here" in untrusted.stderr
    verified = elsewhere("verify", "iris:1", "--key", str(line.home.keys / "own.pub"), "--json")
    assert verified.returncode == 0, verified.stderr
    (told,) = json.loads(verified.stdout)["images"]
    assert {one["form"] for one in told["signatures"]} == {"sigstore bundle", "cosign signature"}
    assert told["attestations"] == []


def test_an_unsigned_image_does_not_verify(line: CommandLine) -> None:
    line("keygen")
    refused = line("verify", "iris:1")
    assert refused.returncode == 1
    assert "is not signed by a trusted key (it has no signature at all)" in refused.stderr
    assert "dockyard sign" in refused.stderr


def test_a_document_that_is_required_and_missing_is_named(line: CommandLine) -> None:
    line("keygen")
    line("sign", "iris:1")
    refused = line("verify", "iris:1", "--require", "sbom", "--require", "provenance")
    assert refused.returncode == 1
    assert "has no sbom and no provenance signed by a trusted key" in refused.stderr


def test_a_damaged_layer_is_named(line: CommandLine) -> None:
    line("keygen")
    line("sign", "iris:1")
    layout = Layout.open(line.home.images)
    layer = layout.resolve("iris:1").layers[0]
    path = layout.blobs.path(layer.digest)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    refused = line("verify", "iris:1")
    assert refused.returncode == 1
    assert f"blob {layer.digest} is damaged" in refused.stderr


def test_trusted_keys_are_files_in_a_folder(line: CommandLine, tmp_path: Path) -> None:
    line("keygen", "--key", str(tmp_path / "team.key"))
    line("sign", "iris:1", "--key", str(tmp_path / "team.key"), "--as", "registry.example.org/models/iris")
    assert line("verify", "iris:1").returncode == 1
    (line.home.keys / "trusted").mkdir(parents=True)
    (tmp_path / "team.pub").rename(line.home.keys / "trusted" / "team.pub")
    assert line("verify", "iris:1").returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("sign", "iris:1"), "dockyard keygen"),
        (("sign", "iris:1", "--key", "nowhere.key"), "there is no key at nowhere.key"),
        (("verify", "iris:1", "--key", "nowhere.pub"), "nowhere.pub cannot be used"),
        (("verify", "iris:2"), "Did you mean iris:1?"),
    ],
)
def test_what_is_missing_is_named_with_a_remedy(line: CommandLine, words: tuple[str, ...], told: str) -> None:
    refused = line(*words)
    assert refused.returncode == 1
    assert told in refused.stderr


def test_a_key_is_never_made_without_a_password_by_accident(line: CommandLine) -> None:
    silent = CommandLine(line.home, {"DOCKYARD_KEY_PASSWORD": ""})
    refused = silent("keygen")
    assert refused.returncode == 2
    assert "DOCKYARD_KEY_PASSWORD" in refused.stderr
    assert silent("keygen", "--unencrypted").returncode == 0
    again = silent("keygen", "--unencrypted")
    assert again.returncode == 1
    assert "cannot be made again" in again.stderr


def test_a_result_of_goldens_is_attached_signed_and_required(home: Home, adder: Built, dockyard: CommandLine) -> None:
    assert adder.image
    key = str(home.root / "results.key")
    dockyard("keygen", "--key", key, "--unencrypted")
    tested = dockyard("test", "adder:1", "--engine", "runc", "--sign", "--key", key)
    assert tested.returncode == 0, tested.stderr
    assert "1 of 1 goldens hold" in tested.stdout
    dockyard("sign", "adder:1", "--key", key)
    public = key.replace(".key", ".pub")
    assert dockyard("verify", "adder:1", "--key", public, "--require", "tests").returncode == 0


def test_goldens_that_failed_do_not_count_as_tested(home: Home, tmp_path: Path, dockyard: CommandLine) -> None:
    project = write_adder(tmp_path / "wrong", MANIFEST.replace('name = "adder"', 'name = "wrong"'))
    (project / "goldens" / "two.json").write_text('{"inputs": {"left": 1.0}, "outputs": 7.0}')
    build_in(project, home, "wrong:1")
    key = str(tmp_path / "own.key")
    dockyard("keygen", "--key", key, "--unencrypted")
    tested = dockyard("test", "wrong:1", "--engine", "runc", "--json")
    assert tested.returncode == 1
    assert [one["golden"] for one in json.loads(tested.stdout) if one["problem"]] == ["two"]
    dockyard("sign", "wrong:1", "--key", key)
    refused = dockyard("verify", "wrong:1", "--key", key.replace(".key", ".pub"), "--require", "tests")
    assert refused.returncode == 1
    assert "does not answer as its goldens say: two" in refused.stderr
