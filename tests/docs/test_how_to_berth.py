"""The pages about berth's protocols and backends, followed: files are written, a server runs, it is asked as shown."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import berth
from tests.berth import support
from tests.berth.support import Berth, serving
from tests.berth.tcp import on_tcp
from tests.docs.pages import DOCS, Block, blocks

HOW_TO = DOCS / "how-to"
HERE = "http://127.0.0.1:8080"
PLATFORM = {"AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": "/rows"}


def marked(page: str, mark: str) -> list[Block]:
    return [block for block in blocks(HOW_TO / page) if block.mark.partition(":")[0] == mark]


def write_files(page: str, folder: Path) -> None:
    for block in marked(page, "file"):
        (folder / block.mark.removeprefix("file: ")).write_text(block.text)


def test_the_page_about_hosted_platforms_can_be_followed(tmp_path: Path) -> None:
    page = "run-on-hosted-platforms.md"
    write_files(page, tmp_path)
    commands, answers = marked(page, "run"), marked(page, "answer")
    assert len(commands) == len(answers) == 3
    settings = " ".join(f"{name}={value}" for name, value in PLATFORM.items())
    assert settings in (HOW_TO / page).read_text()
    with serving(tmp_path, PLATFORM, PREDICTOR="predictor:Price") as server, on_tcp(server) as url:
        for command, answer in zip(commands, answers, strict=True):
            text = command.text.replace(HERE, url)
            done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60, check=True)
            assert json.loads(done.stdout) == json.loads(answer.text), str(command)
        for path in ("/ping", "/health"):
            assert server.get(path).status == 200


@pytest.mark.parametrize(("number", "model"), [(0, ("parrot", "Parrot")), (1, ("lengths", "Lengths"))])
def test_the_page_about_openais_api_can_be_followed(number: int, model: tuple[str, str], tmp_path: Path) -> None:
    page = "speak-openais-api.md"
    write_files(page, tmp_path)
    module, name = model
    client, prints = marked(page, "client")[number], marked(page, "prints")[number]
    with serving(tmp_path, PREDICTOR=f"{module}:{name}", MODEL_NAME=module) as server, on_tcp(server) as url:
        text = client.text.replace(HERE, url)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == prints.text.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of berth that a page's steps may change."""
    copy = tmp_path / "berth"
    shutil.copytree(Path(berth.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def serving_copy(package: Path, **settings: str) -> AbstractContextManager[Berth]:
    """A server of that copy, which is found before the real one."""
    return serving(None, {"PYTHONPATH": f"{package.parent}:{Path(support.__file__).parent}"}, **settings)


def test_the_page_about_protocols_can_be_followed(package: Path) -> None:
    (file,) = (block.text for block in blocks(HOW_TO / "add-a-protocol.md") if block.language == "python")
    (line,) = (block.text for block in marked("add-a-protocol.md", "line"))
    (package / "protocols" / "plain_text.py").write_text(file)
    site = package / "protocols" / "site.py"
    before = site.read_text()
    site.write_text(before.replace("FACES = (\n", f"FACES = (\n    {line}"))
    assert len(site.read_text().splitlines()) == len(before.splitlines()) + 1
    with serving_copy(package, PREDICTOR="models_faces:Shout") as server:
        answer = server.post("/text/model", b"loud")
        assert (answer.status, answer.body) == (200, b"LOUD")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        refused = server.post("/text/model", b"refuse")
        assert (refused.status, refused.body) == (400, b"error: text: not this one\n")
        assert server.post("/text/model", b"\xff").status == 400
        assert server.post("/text/nothing", b"loud").status == 404
        assert server.predict(text="a").json == "A"


def test_the_page_about_backends_can_be_followed(package: Path, tmp_path: Path) -> None:
    (file,) = (block.text for block in blocks(HOW_TO / "add-a-backend.md") if block.language == "python")
    (package / "backends" / "lines.py").write_text(file)
    weights = tmp_path / "weights.txt"
    weights.write_text("1\n2\n")
    options = json.dumps({"scale": 2})
    with serving_copy(package, FORMAT="lines", WEIGHTS=str(weights), OPTIONS=options) as server:
        assert server.predict(x=[[1, 1], [0, 3]]).json == {"y": [6.0, 12.0]}
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 1]}
        assert server.post("/v2/models/model/infer", {"inputs": [tensor]}).json["outputs"][0]["data"] == [6.0]
