"""A store with a signed image, and keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockyard.oci.layout import Layout
from dockyard.supply.keys import PrivateKey


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "store")


@pytest.fixture(scope="session")
def key() -> PrivateKey:
    return PrivateKey.generate()


@pytest.fixture(scope="session")
def stranger() -> PrivateKey:
    return PrivateKey.generate()
