"""Fixtures that several folders of tests share: a Docker Engine that answers, the tiny program, the tiny image."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from dockyard.oci.image import Image, LayerBlob
from dockyard.oci.layout import REF_NAME, Layout
from tests.support.dockerd import docker_engine
from tests.support.projects import SHARED, adder, dockyard, home
from tests.support.tiny_image import base_layers, compile_tiny, make_image

__all__ = ["adder", "dockyard", "home"]

# The same examples every time, unless scripts/fuzz.py asks for new ones: a test that fails once in a while tells nobody
# who broke it.
SLOW = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("fixed", max_examples=100, derandomize=True, deadline=None, suppress_health_check=SLOW)
settings.register_profile("long", max_examples=500, database=None, deadline=None, suppress_health_check=SLOW)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def dockerd() -> Iterator[str]:
    """The address of a Docker Engine: `unix:///...`, for DOCKER_HOST. Started for this session if none answers."""
    with docker_engine() as address:
        yield address


@pytest.fixture(autouse=True)
def unmoved(request: pytest.FixtureRequest) -> Iterator[None]:
    """The name `adder:1` in the home that tests share is `adder`'s alone: who moves it fails, not a test after it."""
    yield
    shared = request.config.stash.get(SHARED, None)
    if shared is None or not (shared.home.images / "index.json").is_file():
        return
    layout = Layout.open(shared.home.images)
    digests = {entry.digest for entry in layout.entries() if entry.annotations.get(REF_NAME) == "adder:1"}
    if digests != ({shared.image.digest} if shared.image else set()):
        if shared.image:
            layout.add(shared.image, "adder:1")
        else:
            layout.remove("adder:1")
        pytest.fail("this test moved the name `adder:1`, which others use: build under another name")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary folder with a short path, because a unix socket's path has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="dy-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def tiny_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static program of tests/support/tiny.c."""
    return compile_tiny(tmp_path_factory.mktemp("tiny-program"))


@dataclass(frozen=True)
class TinyImage:
    """The tiny image, named `tiny:1`, in a layout; `base` are its layers without the last one."""

    layout: Layout
    base: tuple[LayerBlob, ...]
    image: Image


@pytest.fixture(scope="session")
def tiny_image(tiny_program: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyImage:
    """An image that any engine can start, made by `dockyard.oci`."""
    layout = Layout.create(tmp_path_factory.mktemp("tiny-layout"))
    base = base_layers(layout, tiny_program)
    return TinyImage(layout, base, make_image(layout, base, "tiny:1"))
