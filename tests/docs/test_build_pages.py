"""The how-to pages on planning and updating, followed by a shell: every command runs, and says what the page says."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dockyard.supply.advisories.tracker import RELEASES
from tests.docs.pages import DOCS, blocks
from tests.docs.test_tutorial import follow
from tests.support.osv import affected, record, tracked, write_archive, write_json
from tests.support.projects import MANIFEST, PREDICTOR, CommandLine, write_adder
from tests.support.wheels import write_wheel

HOW_TO = DOCS / "how-to"
# How `dy-answer` answers in each version that the page meets; the last one changes the answers.
ANSWERS = {"1.0": "0.5", "1.1": "0.5", "1.2": "0.75"}


def follow_page(page: Path, folder: Path, line: CommandLine, publish: Callable[[str], object] = print) -> None:
    """Run the blocks that are marked `run` or `fails`, and look for what stands in the `says` block after them.

    `fails with 1.2` publishes that version first.
    """
    said = ""
    for block in blocks(page):
        kind, _, version = block.mark.partition(" with ")
        if version:
            publish(version)
        if kind in {"run", "fails"}:
            done = follow(block.text, folder, line)
            said = done.stdout + done.stderr
            assert (done.returncode == 0) is (kind == "run"), f"{block}\n{said}"
        elif kind == "says":
            for expected in block.text.splitlines():
                assert expected in said, f"{block}\n{said}"


@pytest.mark.parametrize("page", ["see-what-a-build-will-do", "keep-images-fresh", "known-problems"])
def test_every_block_of_a_page_is_followed(page: str) -> None:
    marks = {block.mark.partition(" ")[0] for block in blocks(HOW_TO / f"{page}.md")}
    assert marks == {"run", "fails", "says"}


def test_the_page_on_planning_can_be_followed(dockyard: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path, MANIFEST.replace('"adder"', '"planned"'))
    follow_page(HOW_TO / "see-what-a-build-will-do.md", folder, dockyard)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the runc engine needs root")
def test_the_page_on_updating_can_be_followed(dockyard: CommandLine, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"

    def publish(version: str) -> None:
        write_wheel(wheels, "dy_answer", version, {"dy_answer.py": f"VALUE = {ANSWERS[version]}\n"})

    publish("1.0")
    manifest = MANIFEST.replace('"adder"', '"fresh"') + '\n[build]\nrequirements = ["dy-answer"]\n'
    predictor = "import dy_answer\n" + PREDICTOR.replace("self.offset = 0.5", "self.offset = dy_answer.VALUE")
    folder = write_adder(tmp_path / "project", manifest, predictor)
    line = CommandLine(dockyard.home, {"UV_FIND_LINKS": str(wheels), "DOCKYARD_ENGINE": "runc"})
    assert line("build", str(folder)).returncode == 0
    publish("1.1")
    follow_page(HOW_TO / "keep-images-fresh.md", folder, line, publish)


def test_the_page_on_known_problems_can_be_followed(dockyard: CommandLine, tmp_path: Path) -> None:
    folder = write_adder(tmp_path / "project", MANIFEST.replace('"adder"', '"known"'))
    assert dockyard("build", str(folder)).returncode == 0
    bill = json.loads(dockyard("inspect", "known", "--json").stdout)["images"][0]
    release = bill["os"].split()[1]
    codename = next(name for name, number in RELEASES.items() if number == release)
    files = tmp_path / "advisories"
    files.mkdir()
    word = {"database_specific": {"severity": "HIGH"}}
    numpy = record("CVE-2031-0001", affected("PyPI", "numpy", {"introduced": "0"}, {"fixed": "99.0"}), **word)
    write_archive(files / "PyPI.zip", numpy)
    write_archive(files / "Debian.zip", record("X", affected(f"Debian:{release}", "nothing", {"introduced": "0"})))
    state = tracked("open", nodsa="Minor issue", urgency="medium")
    write_json(files / "tracker.json", {"glibc": {"CVE-2031-0002": {"releases": {codename: state}}}})
    try:
        follow_page(HOW_TO / "known-problems.md", folder, dockyard)
    finally:
        shutil.rmtree(dockyard.home.advisories)
    assert (folder / "problems.json").read_text().startswith("{")
