"""What a build writes down of an image: that what it need not read again is right all the same."""

from __future__ import annotations

from pathlib import Path

from dockyard.build.builder import Built, Options, build
from dockyard.build.progress import Silent
from dockyard.build.workshop import Workshop
from dockyard.cli.evidence import attach_evidence
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.spec.load import load_project
from dockyard.supply.contents import contents_of
from dockyard.supply.evidence import evidence_of
from dockyard.supply.statement import SBOM
from tests.support.projects import MANIFEST, write_adder


def test_packages_among_the_code_are_in_the_bill_of_materials(adder: Built, home: Home, tmp_path: Path) -> None:
    """Whoever reads every layer finds what the build wrote down, with and without a package beside the code."""
    folder, layout = (
        write_adder(tmp_path / "project", MANIFEST.replace('"adder"', '"vendor"')),
        Layout.open(home.images),
    )
    for has_package in (False, True):
        if has_package:
            metadata = folder / "vendored-2.dist-info" / "METADATA"
            metadata.parent.mkdir()
            metadata.write_text("Metadata-Version: 2.1\nName: vendored\nVersion: 2\n")
        workshop = Workshop(load_project(folder), layout, home.cache, Silent())
        image = build(workshop, Options("vendor:1"), attach_evidence).image
        found = contents_of(layout, image, tmp_path / "unread")
        assert [one.version for one in found.python if one.name == "vendored"] == ["2"] * has_package
        (bill,) = (
            one.statement for one in evidence_of(layout, image.digest, "vendor") if one.statement.predicate_type == SBOM
        )
        named = {(one["name"], one["version"]) for one in bill.predicate["components"] if one["type"] == "library"}
        assert {(one.name, one.version) for one in found.python} <= named
        assert {(one.name, one.version) for one in found.system} <= named
        assert {"vendored"} & {name for name, _ in named} == ({"vendored"} if has_package else set())
