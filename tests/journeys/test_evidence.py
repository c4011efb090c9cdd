"""What a build attaches to its image, read by those who did not write it; signed, and travelling with the image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from dockyard.oci.digest import digest_of_file, hex_of
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.supply.evidence import CYCLONEDX, evidence_of
from dockyard.supply.statement import MODEL_CARD, PROVENANCE, SBOM
from tests.support.projects import MANIFEST, CommandLine, write_adder

SYFT = Path(sys.executable).with_name("syft")
OFFLINE = {"SYFT_CHECK_FOR_APP_UPDATE": "false"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_adder(
        tmp_path_factory.mktemp("evidence"),
        MANIFEST.replace('name = "adder"', 'name = "evident"\nlicense = "Apache-2.0"\nweights = "offset.txt"'),
    )
    (folder / "offset.txt").write_text("0.5")
    (folder / "MODEL_CARD.md").write_text("# Evident\n\nAdds two numbers; made for a test.\n")
    return folder


@pytest.fixture(scope="module")
def line(home: Home, project: Path) -> CommandLine:
    """The command line, with the project built."""
    command = CommandLine(home, {"DOCKYARD_KEY_PASSWORD": "open sesame"})
    done = command("build", str(project))
    assert done.returncode == 0, done.stderr
    return command


@pytest.fixture(scope="module")
def layout(line: CommandLine) -> Layout:
    return Layout.open(line.home.images)


@pytest.fixture(scope="module")
def documents(layout: Layout) -> dict[str, Any]:
    image = layout.resolve("evident:1")
    return {
        one.statement.predicate_type: one.statement.predicate for one in evidence_of(layout, image.digest, "evident")
    }


def test_every_build_attaches_three_documents(documents: dict[str, Any]) -> None:
    assert set(documents) == {SBOM, PROVENANCE, MODEL_CARD}


def test_the_bill_of_materials_is_valid_cyclonedx(documents: dict[str, Any]) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(documents[SBOM])) is None


def test_the_bill_of_materials_names_the_model_the_system_and_both_kinds_of_packages(
    documents: dict[str, Any], project: Path
) -> None:
    components = {(one["type"], one["name"]): one for one in documents[SBOM]["components"]}
    model = components["machine-learning-model", "evident"]
    assert model["licenses"] == [{"license": {"name": "Apache-2.0"}}]
    assert model["hashes"] == [{"alg": "SHA-256", "content": hex_of(digest_of_file(project / "offset.txt"))}]
    assert components["operating-system", "debian"]["version"].isdigit()
    libc = components["library", "libc6"]
    assert "upstream=glibc" in libc["purl"]
    assert {"name": "aquasecurity:trivy:SrcName", "value": "glibc"} in libc["properties"]
    assert libc["hashes"][0]["alg"] == "SHA-256"
    assert components["library", "msgspec"]["purl"].startswith("pkg:pypi/msgspec@")


def test_syft_reads_it_and_finds_the_same_in_the_image_itself(
    documents: dict[str, Any], line: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "bom.json").write_text(json.dumps(documents[SBOM]))
    told = syft("convert", str(tmp_path / "bom.json"), "-o", "syft-json")
    found = syft("scan", f"oci-dir:{write_layout(line, tmp_path)}", "-o", "syft-json")
    assert packages(told) == packages(found)
    assert len(packages(found)) > 20
    assert told["distro"]["id"] == found["distro"]["id"] == "debian"


def write_layout(line: CommandLine, folder: Path) -> Path:
    """The image alone in a layout, as skopeo copies it."""
    source, target = f"oci:{line.home.images}:evident:1", folder / "alone"
    words = ["skopeo", "--insecure-policy", "copy", source, f"oci:{target}:1"]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    return target


def syft(*words: str) -> Any:
    done = subprocess.run(
        [str(SYFT), *words], env={**os.environ, **OFFLINE}, capture_output=True, check=True, timeout=120
    )
    return json.loads(done.stdout)


def packages(document: Any) -> set[tuple[str, str, str]]:
    return {(one["type"], one["name"].lower().replace("_", "-"), one["version"]) for one in document["artifacts"]}


def test_provenance_names_every_file_and_every_package(documents: dict[str, Any], project: Path) -> None:
    definition = documents[PROVENANCE]["buildDefinition"]
    files = definition["externalParameters"]["project"]["files"]
    assert files["predictor.py"] == hex_of(digest_of_file(project / "predictor.py"))
    assert set(files) == {"predictor.py", "offset.txt", "MODEL_CARD.md", "goldens/one.json"}
    uris = [one["uri"] for one in definition["resolvedDependencies"]]
    assert any(uri.startswith("pkg:deb/debian/python3-minimal@") for uri in uris)
    assert any(uri.startswith("pkg:pypi/numpy@") for uri in uris)


def test_the_card_carries_the_text_that_people_wrote(documents: dict[str, Any]) -> None:
    card = documents[MODEL_CARD]
    assert card["license"] == "Apache-2.0"
    assert "made for a test" in card["text"]


def test_evidence_is_the_same_from_another_home(
    line: CommandLine, layout: Layout, project: Path, tmp_path: Path
) -> None:
    other = CommandLine(Home(tmp_path / "other"))
    done = other("build", str(project), "--locked")
    assert done.returncode == 0, done.stderr
    there = Layout.open(other.home.images)
    image = layout.resolve("evident:1")
    assert there.resolve("evident:1") == image
    digests = {
        artifact.digest
        for artifact in layout.referrers(image.digest)
        if not artifact.type.startswith("application/vnd.dev")
    }
    assert {artifact.digest for artifact in there.referrers(image.digest)} == digests


def test_a_build_can_do_without(line: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path / "plain", MANIFEST.replace('name = "adder"', 'name = "plain"'))
    assert line("build", str(folder), "--no-evidence").returncode == 0
    layout = Layout.open(line.home.images)
    assert layout.referrers(layout.resolve("plain:1").digest, CYCLONEDX) == ()


def test_what_is_signed_is_required_and_verified(line: CommandLine) -> None:
    line("keygen")
    assert "with 3 documents" in line("sign", "evident:1").stdout
    verified = line("verify", "evident:1", "--require", "sbom", "--require", "provenance", "--require", "model-card")
    assert verified.returncode == 0, verified.stderr
    refused = line("verify", "evident:1", "--require", "tests")
    assert refused.returncode == 1
    assert "has no tests signed by a trusted key" in refused.stderr
