"""Bytecode of wheels is compiled once for each distribution, and a layer does not tell whether it was found or made."""

import shutil
from pathlib import Path

import pytest

from dockyard.build import wheel_bytecode
from dockyard.spec.home import Home
from tests.support.projects import MANIFEST, build_in, write_adder

pytestmark = pytest.mark.slow


def with_requirements(*names: str) -> str:
    return f"{MANIFEST}\n[build]\nrequirements = {list(names)}\n"


def test_one_distribution_more_compiles_that_one_alone_and_gives_the_digest_of_empty_caches(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
):
    compiled: list[list[str]] = []
    run = wheel_bytecode.WheelCompiler._run
    monkeypatch.setattr(
        wheel_bytecode.WheelCompiler,
        "_run",
        lambda self, interpreter, sources, into: (compiled.append(sources), run(self, interpreter, sources, into)),
    )
    project = write_adder(tmp_path / "here", with_requirements())
    build_in(project, home, "bytecode:1")
    write_adder(project, with_requirements("tabulate"))
    compiled.clear()
    found = build_in(project, home, "bytecode:2")
    assert [[path.split("/")[0] for path in sources] for sources in compiled] == [["tabulate"] * len(compiled[0])]

    elsewhere = shutil.copytree(project, tmp_path / "there")
    made = build_in(elsewhere, Home(tmp_path / "home"), "bytecode:2", locked=True)
    assert made.image.manifest.digest == found.image.manifest.digest
