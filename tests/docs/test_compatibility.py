"""The compatibility page claims what the tests prove, with the versions that they run with."""

from __future__ import annotations

import importlib.metadata

import pytest

from tests.conformance.environments import pinned, requirements
from tests.docs.pages import DOCS, rows, unquoted

PAGE = DOCS / "reference" / "compatibility.md"
CLIENTS = [[unquoted(cell) for cell in row] for row in rows(PAGE, "Clients")]


def version_of(package: str) -> str:
    """As pinned in an environment of its own, or as installed here."""
    return pinned(package, package) if requirements(package).exists() else importlib.metadata.version(package)


@pytest.mark.parametrize(("client", "version", "proof"), [(row[0], row[1], row[-1]) for row in CLIENTS])
def test_a_row_names_the_version_that_is_tested_and_a_test_that_uses_the_client(
    client: str, version: str, proof: str
) -> None:
    package, _, member = client.partition(".")
    assert version == version_of(package)
    path = DOCS.parent / proof
    assert path.name.startswith("test_")
    texts = [path.read_text(), *(script.read_text() for script in path.parent.glob(f"{package}_*.py"))]
    assert any(
        line.split()[:2] in (["import", client], ["from", package]) for text in texts for line in text.split("\n")
    )
    assert any(member.rpartition(".")[2] in text for text in texts)


def test_no_client_has_two_rows() -> None:
    names = [row[0] for row in CLIENTS]
    assert len(names) == len(set(names)) > 0
