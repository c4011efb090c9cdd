"""Triton: the server binary inside nvidia-pytriton's wheel, its python backend running onnxruntime.

The wheel has no onnxruntime backend. Without and with dynamic batching, over V2 JSON, V2 binary and gRPC.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.serving.asking import Ask, v2_binary, v2_grpc, v2_json
from benchmarks.serving.environments import shared_requirements
from benchmarks.serving.models import Model
from benchmarks.serving.peers import ROOT, Peer, Site, serve_file

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_CONFIGURATION = """
name: "model"
backend: "python"
max_batch_size: 64
input [{{ name: "X" data_type: TYPE_FP32 dims: {inputs} }}]
output [{{ name: "Y" data_type: TYPE_FP32 dims: {outputs} }}]
instance_group [{{ count: {workers} kind: KIND_CPU }}]
{batching}
"""


def _asks(model: Model) -> Sequence[Ask]:
    return [v2_json(model), v2_binary(model), v2_grpc(model)]


def _packages(site: Site) -> Path:
    return site.python.parents[1] / "lib" / f"python{_VERSION}" / "site-packages"


def _backends(site: Site, server: Path) -> Path:
    """The python backend, with the stub for this Python next to it, where Triton looks."""
    backend = site.folder / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    shutil.copy(server / "python_backend_stubs" / _VERSION / "triton_python_backend_stub", backend)
    return backend.parent


def _repository(site: Site, batching: str) -> Path:
    """A model repository with the one model."""
    model = site.folder / "models" / "model"
    (model / "1").mkdir(parents=True)
    shutil.copy(serve_file(__file__), model / "1" / "model.py")
    sizes = {"inputs": list(site.model.question.shape[1:]), "outputs": list(site.model.answer.shape[1:])}
    text = _CONFIGURATION.format(workers=site.model.workers, batching=batching, **sizes)
    (model / "config.pbtxt").write_text(text)
    return model.parent


def _start(site: Site, batching: str) -> Sequence[str]:
    server = _packages(site) / "pytriton" / "tritonserver"
    return [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={_repository(site, batching)}",
        f"--backend-directory={_backends(site, server)}",
        f"--http-port={site.port}",
        f"--grpc-port={site.grpc_port}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--allow-metrics=false",
        "--log-info=false",
        f"--backend-config=python,shm-region-prefix-name={site.folder.name}",
    ]


def _command(site: Site) -> Sequence[str]:
    return _start(site, "")


def _batched_command(site: Site) -> Sequence[str]:
    return _start(site, "dynamic_batching { }")


def _environment(site: Site) -> Mapping[str, str]:
    """The stub embeds Python, which knows nothing of the environment: tell it where the packages are."""
    return {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(_packages(site)))),
        "LD_LIBRARY_PATH": os.pathsep.join(
            (str(_packages(site) / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR")))
        ),
    }


_PLAIN = Peer(
    "triton",
    "Triton, python backend",
    "one instance (the 20 ms predictor: two), metrics off",
    asks=_asks,
    command=_command,
    requirements=("nvidia-pytriton==0.7.0", *shared_requirements()),
    environment=_environment,
)
PEERS = (
    _PLAIN,
    replace(
        _PLAIN,
        name="triton-batching",
        title="Triton, python backend, batching",
        note="the same with dynamic batching (no delay), at most 64",
        command=_batched_command,
    ),
)
