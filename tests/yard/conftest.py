"""A store in a temporary folder, on a clock that tests turn; a small disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dockyard.oci.digest import digest_of
from dockyard.spec.deployment import Deployment
from dockyard.yard.records import NewRevision, Origin
from dockyard.yard.store import Store

ADA = Origin("ada", "a better model")


@dataclass
class Clock:
    time: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


def revision(name: str = "iris", *, content: str = "one", **settings: object) -> NewRevision:
    digest = digest_of(content.encode())
    asked = Deployment(name=name, image=f"{name}@{digest}", **settings)
    return NewRevision(asked, digest, f"{name}:{content}", memory=1 << 30)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "yard" / "yard.db"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[Store]:
    store = Store.open(path, clock=clock)
    yield store
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
