"""Triton itself as a deployment, by its preset: the real server in an image that Dockyard's builder did not make.

The program and its python backend come out of nvidia-pytriton's wheel. Below them lie a Debian base with Python and
numpy; the model repository is mounted from the host, read-only, as Triton's users do. The python backend changes the
mode of a file of its own at every start, so its folder is a writable mount that belongs to the container's user.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dockyard.engines.base import DEFAULT_USER
from dockyard.oci.image import LayerBlob
from dockyard.oci.layer import Entry, entries_of, write_layer
from dockyard.oci.layout import Layout
from dockyard.spec.deployment import Deployment, Limits, Mount, Server, Strategy, StrategyKind
from dockyard.spec.home import Home
from tests.conformance.environments import python_of
from tests.support.load import Load
from tests.support.projects import build_in, write_adder
from tests.support.tiny_image import make_image
from tests.support.yards import running_yard

pytestmark = pytest.mark.slow  # the first run fetches a wheel of 30 MB

ROOT = "opt/tritonserver"
BASE = """\
[model]
name = "base"
predictor = "predictor:Adder"

[build]
requirements = ["numpy<2"]
packages = ["bash", "libpython3.11", "libstdc++6"]
"""
CONFIGURATION = """\
name: "adder"
backend: "python"
max_batch_size: 8
input [{ name: "X" data_type: TYPE_FP32 dims: [ 2 ] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }]
instance_group [{ count: 1 kind: KIND_CPU }]
"""
MODEL = """\
import sys

sys.path.append("/opt/dependencies")  # the stub does not heed PYTHONPATH
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        inputs = [triton.get_input_tensor_by_name(each, "X").as_numpy() for each in requests]
        return [triton.InferenceResponse([triton.Tensor("Y", each.sum(axis=1, keepdims=True))]) for each in inputs]
"""
QUESTION = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.5]}]}
INFER = "/v2/models/adder/infer"


def wheel() -> Path:
    """The folder in which nvidia-pytriton is installed."""
    return next((python_of("triton").parents[1] / "lib").glob("python3*")) / "site-packages"


def server_files() -> Iterator[Entry]:
    """Triton as its own images lay it out, without its backend."""
    yield Entry(
        f"{ROOT}/bin/tritonserver", 0o755, "file", wheel() / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    )
    yield from entries_of(wheel() / "nvidia_pytriton.libs", f"{ROOT}/lib")


@pytest.fixture
def triton(home: Home, tmp_path: Path) -> str:
    """The name of an image with Triton in the store."""
    base = build_in(write_adder(tmp_path / "base", manifest=BASE), home, "base:1").image
    layout = Layout.open(home.images)
    below = [LayerBlob(*each) for each in zip(base.layers, base.config.diff_ids, strict=True)]
    settings = dict(each.split("=", 1) for each in base.config.environment)
    settings["PATH"] = f"/{ROOT}/bin:{settings['PATH']}"
    settings["LD_LIBRARY_PATH"] = f"/{ROOT}/lib"
    config = replace(
        base.config,
        environment=tuple(f"{name}={value}" for name, value in settings.items()),
        entrypoint=(),
        command=(),
        labels={},
        history=(),
    )
    for tag in ("1", "2"):
        make_image(layout, [*below, write_layer(server_files(), "gzip", layout.blobs)], f"triton:{tag}", tag, config)
    return "triton"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with one model."""
    model = tmp_path / "models" / "adder"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIGURATION)
    (model / "1" / "model.py").write_text(MODEL)
    return model.parent


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    """Triton's python backend for the images' Python, in a folder of the user that containers run as."""
    server, folder = wheel() / "pytriton" / "tritonserver", tmp_path / "python"
    shutil.copytree(server / "backends" / "python", folder)
    shutil.copy(next(server.glob("python_backend_stubs/3.11/*")), folder)
    for each in (folder, *folder.iterdir()):
        os.chown(each, DEFAULT_USER, 0)
    return folder


def adder(image: str, repository: Path, backend: Path) -> Deployment:
    """One replica of Triton with the model."""
    return Deployment(
        name="adder",
        image=image,
        server=Server(preset="triton"),
        mounts=(
            Mount(source=str(repository), target="/models"),
            Mount(source=str(backend), target=f"/{ROOT}/backends/python", writable=True),
        ),
        resources=Limits(memory="1GiB", pids=512),
        strategy=Strategy(kind=StrategyKind.ROLLING, rollback_window_s=5),
    )


def test_triton_is_deployed_by_its_preset_answers_and_is_updated_without_a_lost_request(
    home: Home, dockerd: str, triton: str, repository: Path, backend: Path
) -> None:
    with running_yard(home, {"DOCKER_HOST": dockerd}, "--engine", "docker") as yard:
        receipt = yard.deploy(adder(f"{triton}:1", repository, backend))
        assert receipt.succeeded, (receipt.why, yard.line("events", "--json").stdout)
        status, answer = yard.ask(INFER, QUESTION)
        assert (status, answer["outputs"][0]["data"]) == (200, [3.5])
        with Load(yard.port, INFER, QUESTION) as load:
            receipt = yard.deploy(adder(f"{triton}:2", repository, backend))
        assert receipt.succeeded, receipt.why
        assert load.failures == []
        assert load.answers
