"""`schemathesis` against `/openapi.json`: what is documented is accepted, what is not is refused, answers are as told.

Its checks: no 500, documented status codes, content types and headers only, answers that fit their schemas, requests
that fit accepted, requests that do not fit refused, methods that are not there 405.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.conformance.clients import KINDS, listening, models, turning
from tests.conformance.environments import HERE

# What no schema says: that rows are of one length, that all inputs have as many, or that bytes are a picture.
RELATED = ("--exclude-checks", "positive_data_acceptance")
EXAMPLES = 5  # of each kind, for each operation
RUN_S = 400
ONCE = ("--exclude-path-regex", "/versions/")  # each route without a version

pytestmark = pytest.mark.slow


def typed(_: Path) -> AbstractContextManager[str]:
    """Nested structs, an enum, constraints, arrays; a name that has to be encoded."""
    return listening(PREDICTOR="models_clients:Planner", MODEL_NAME="team/plan 1")


def pictures(_: Path) -> AbstractContextManager[str]:
    return listening(PREDICTOR="models_clients:Gallery")


def tensors(folder: Path) -> AbstractContextManager[str]:
    turning(folder / "every.onnx", *KINDS)
    return listening(FORMAT="onnx", WEIGHTS=str(folder / "every.onnx"), MODEL_NAME="every")


def stream(_: Path) -> AbstractContextManager[str]:
    return listening(PREDICTOR="models_clients:Words")


def several(folder: Path) -> AbstractContextManager[str]:
    return listening(MODELS=models(folder, "onnx", 0), MODEL_CONTROL="on")


def judge(url: str, folder: Path, *options: str) -> None:
    """Run schemathesis; what it says is the failure."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "--no-color"),
        *("run", url, "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--warnings", "off"),
        *("--generation-deterministic", "-n", str(EXAMPLES), *options),
    ]
    variables = {**os.environ, "PYTHONPATH": str(HERE), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=RUN_S, check=False, env=variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


@pytest.mark.parametrize(
    ("server", "path", "options"),
    [
        (typed, "/openapi.json", ()),
        (
            pictures,
            "/openapi.json",
            (*ONCE, *RELATED),
        ),
        (tensors, "/openapi.json", (*ONCE, *RELATED)),
        (stream, "/openapi.json", ONCE),
        (several, "/models/add/openapi.json", ("--exclude-path-regex", "/unload$", *RELATED)),
    ],
    ids=["typed", "pictures", "tensors", "stream", "several"],
)
def test_the_document_and_the_server_agree(
    server: Callable[[Path], AbstractContextManager[str]], path: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    with server(tmp_path) as address:
        judge(f"http://{address}{path}", tmp_path, *options)
