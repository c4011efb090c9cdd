"""`dockyard update` takes newer versions only when the goldens hold with them; else the old lock stays as it is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dockyard.build.lock import Lock, read_lock, write_locks
from dockyard.build.target import host_architecture
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.support.osv import affected, record, write_archive
from tests.support.projects import PREDICTOR, CommandLine, write_adder
from tests.support.wheels import write_wheel

PLATFORM = f"linux/{host_architecture()}"
MANIFEST = """\
[model]
name = "{name}"
predictor = "predictor:Adder"

[build]
requirements = ["dy-answer>=1,<3"]

[run]
memory = "256MiB"
"""
WITH_ANSWER = "import dy_answer\n" + PREDICTOR.replace("self.offset = 0.5", "self.offset = dy_answer.VALUE")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the runc engine needs root"),
]


@dataclass(frozen=True)
class Updater:
    """A built project, the folder that stands for its package index, and the command line."""

    folder: Path
    wheels: Path
    line: CommandLine
    name: str

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.line("update", str(self.folder), "--engine", "runc", *words)

    def publish(self, version: str, value: str) -> None:
        write_wheel(self.wheels, "dy_answer", version, {"dy_answer.py": f"VALUE = {value}\n"})

    @property
    def lock(self) -> bytes:
        return (self.folder / "dockyard.lock").read_bytes()

    @property
    def digests(self) -> set[str]:
        images = Layout.open(self.line.home.images).images()
        return {named.image.digest for named in images if named.name.startswith(f"{self.name}:")}

    @property
    def unnamed(self) -> set[str]:
        """Manifests in the store that no name leads to: a failed update must not leave one more."""
        layout = Layout.open(self.line.home.images)
        listed = {named.image.digest for named in layout.images()} | {entry.digest for entry in layout.entries()}
        small = [digest for digest in layout.blobs if layout.blobs.path(digest).stat().st_size < 100_000]
        manifests = [one for one in small if b'"layers":[' in layout.blobs.read(one)]
        return set(manifests) - listed

    def locked(self) -> str:
        lock = read_lock(self.folder, PLATFORM)
        assert lock is not None
        return next(wheel.version for wheel in lock.wheels if wheel.name == "dy-answer")


@pytest.fixture
def updater(tmp_path: Path, dockyard: CommandLine, request: pytest.FixtureRequest) -> Updater:
    name = "fresh-" + request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:60]
    folder = write_adder(tmp_path / "project", MANIFEST.format(name=name), WITH_ANSWER)
    line = CommandLine(dockyard.home, {"UV_FIND_LINKS": str(tmp_path / "wheels")})
    updater = Updater(folder, tmp_path / "wheels", line, name)
    updater.publish("1.0", "0.5")
    done = line("build", str(folder))
    assert done.returncode == 0, done.stderr
    return updater


def test_nothing_to_update_says_so_and_changes_nothing(updater: Updater) -> None:
    lock, digests = updater.lock, updater.digests
    done = updater()
    assert done.returncode == 0, done.stderr
    assert "nothing to update" in done.stdout
    assert (updater.lock, updater.digests) == (lock, digests)


def test_a_newer_version_with_which_the_goldens_hold_is_kept(updater: Updater) -> None:
    digests = updater.digests
    updater.publish("2.0", "0.25 + 0.25")
    updater.publish("3.0", "9.0")  # outside of the project's range
    done = updater("--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    change = {"kind": "python-package", "what": "dy-answer", "before": "1.0", "after": "2.0"}
    assert told["changes"][PLATFORM] == [change]
    assert told["updated"]
    assert told["problems"] is None
    assert told["goldens"] == [{"golden": "one", "problem": ""}]
    assert updater.locked() == "2.0"
    assert updater.digests == {told["images"][PLATFORM]} != digests
    result = json.loads(updater.line("inspect", updater.name, "--document", "tests").stdout)
    assert (result["result"], result["passedTests"]) == ("PASSED", ["one"])
    assert updater.line("build", str(updater.folder), "--locked").returncode == 0


def test_goldens_that_fail_keep_the_old_lock_and_the_old_image(updater: Updater) -> None:
    lock, digests, unnamed = updater.lock, updater.digests, updater.unnamed
    updater.publish("2.0", "0.75")
    done = updater()
    assert done.returncode == 1
    assert "dy-answer  1.0 -> 2.0" in done.stdout
    assert "the goldens do not hold with the new versions" in done.stderr
    assert "0 of 1 goldens hold" in done.stderr
    assert "dockyard.lock and the image's names are as they were" in done.stderr
    assert "Which known problems go away with that is not known" in done.stdout
    assert (updater.lock, updater.digests) == (lock, digests)
    assert updater.unnamed <= unnamed


def with_own(updater: Updater, folder: Path, *shared: str) -> Updater:
    """The same project in a home of its own, which shares these folders with the others."""
    folder.mkdir()
    for part in shared:
        (updater.line.home.root / part).mkdir(exist_ok=True)
        (folder / part).symlink_to(updater.line.home.root / part)
    return replace(updater, line=replace(updater.line, home=Home(folder)))


def test_known_problems_that_go_and_stay_and_come_are_told(updater: Updater, tmp_path: Path) -> None:
    """In a home of its own, since advisories are this user's and not one project's."""
    updater.publish("2.0", "0.5")
    line = with_own(updater, tmp_path / "own", "images", "cache", "runc").line
    records = [
        record("CVE-2031-1", affected("PyPI", "dy_answer", {"introduced": "0"}, {"fixed": "1.5"})),
        record("CVE-2031-2", affected("PyPI", "dy-answer", {"introduced": "0"})),
        record("CVE-2031-3", affected("PyPI", "dy-answer", versions=["2.0"])),
        record("CVE-2031-4", affected("PyPI", "dy-answer", {"introduced": "3.0"})),
    ]
    assert line("advisories", "import", str(write_archive(tmp_path / "pypi.zip", *records))).returncode == 0
    done = line("update", str(updater.folder), "--dry-run")
    assert done.returncode == 0, done.stderr
    said = [" ".join(text.split()) for text in done.stdout.splitlines()]
    assert "goes away unrated CVE-2031-1 dy-answer 1.0 fixed in 1.5" in said
    assert "stays unrated CVE-2031-2 dy-answer 2.0 no fix" in said
    assert "is new unrated CVE-2031-3 dy-answer 2.0 affected" in said
    assert "CVE-2031-4" not in done.stdout
    assert any(text.startswith("not checked: ") and "packages of Debian:" in text for text in said)
    updated = line("update", str(updater.folder), "--engine", "runc", "--json")
    assert updated.returncode == 0, updated.stderr
    told = json.loads(updated.stdout)["problems"][PLATFORM]
    assert {kind: [one["id"] for one in told[kind]] for kind in ("gone", "stay", "new")} == {
        "gone": ["CVE-2031-1"],
        "stay": ["CVE-2031-2"],
        "new": ["CVE-2031-3"],
    }
    scanned = json.loads(line("scan", updater.name, "--json").stdout)["images"][0]
    assert sorted(one["id"] for one in scanned["problems"]) == ["CVE-2031-2", "CVE-2031-3"]


def test_a_build_that_fails_keeps_both(updater: Updater) -> None:
    lock, digests = updater.lock, updater.digests
    write_wheel(updater.wheels, "dy_answer", "2.0", {"dy_other_name.py": ""})  # what the predictor imports is gone
    done = updater()
    assert done.returncode == 1
    assert "imports dy_answer, which nothing in the image has" in done.stderr
    assert (updater.lock, updater.digests) == (lock, digests)


def test_versions_that_cannot_be_resolved_keep_both(updater: Updater) -> None:
    lock, digests = updater.lock, updater.digests
    (updater.wheels / "dy_answer-1.0-py3-none-any.whl").unlink()
    done = updater()
    assert done.returncode == 1
    assert "dy-answer" in done.stderr
    assert (updater.lock, updater.digests) == (lock, digests)


def test_an_engine_that_does_not_answer_keeps_both(updater: Updater) -> None:
    lock, digests = updater.lock, updater.digests
    updater.publish("2.0", "0.5")
    line = CommandLine(updater.line.home, {**updater.line.environment, "DOCKER_HOST": "unix:///nowhere.sock"})
    done = line("update", str(updater.folder), "--engine", "docker")
    assert done.returncode == 1
    assert (updater.lock, updater.digests) == (lock, digests)


def test_a_dry_run_shows_and_changes_nothing(updater: Updater) -> None:
    lock, digests = updater.lock, updater.digests
    updater.publish("2.0", "0.75")
    done = updater("--dry-run")
    assert done.returncode == 0, done.stderr
    assert "dy-answer  1.0 -> 2.0" in done.stdout
    assert (updater.lock, updater.digests) == (lock, digests)


def test_debian_packages_and_the_base_are_updated_too(updater: Updater) -> None:
    """The lock is made older by hand: a mirror with old versions is not at hand."""
    lock = read_lock(updater.folder, PLATFORM)
    assert lock is not None
    older = [renamed(package) if package.name == "tzdata" else package for package in lock.base]
    write_locks(updater.folder, {PLATFORM: Lock(**{**vars(lock), "base": tuple(older)})})
    done = updater("--json")
    assert done.returncode == 0, done.stderr
    (change,) = json.loads(done.stdout)["changes"][PLATFORM]
    assert (change["kind"], change["what"], change["before"]) == ("debian", "tzdata", "1999a-1")


def renamed(package: Any) -> Any:
    return type(package)(**{**vars(package), "version": "1999a-1", "sha256": "0" * 64})


def test_a_project_without_goldens_is_refused_unless_told_otherwise(updater: Updater) -> None:
    lock = updater.lock
    updater.publish("2.0", "0.75")
    (updater.folder / "goldens" / "one.json").unlink()
    done = updater()
    assert done.returncode == 1
    assert "--unsafe-skip-goldens" in done.stderr
    assert updater.lock == lock
    assert updater("--unsafe-skip-goldens").returncode == 0
    assert updater.locked() == "2.0"


def test_a_project_without_a_lock_is_told_to_build(tmp_path: Path, dockyard: CommandLine) -> None:
    done = dockyard("update", str(write_adder(tmp_path)))
    assert done.returncode == 1
    assert "Run `dockyard build` first." in done.stderr


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda ending: ending.name)
def test_an_update_that_is_ended_at_any_moment_leaves_a_whole_lock(updater: Updater, ending: signal.Signals) -> None:
    """Ended again and again, each time later, until it is fast enough to finish: the old lock, or the new one at 0."""
    lock, digests, unnamed = updater.lock, updater.digests, updater.unnamed
    updater.publish("2.0", "0.5")
    command = updater.line.command("update", str(updater.folder), "--engine", "runc")
    delay, ended = 0.3, 0
    while delay < 120:
        process = subprocess.Popen(
            command,
            env=updater.line.variables(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        time.sleep(delay)
        process.send_signal(ending)
        _, stderr = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        ended += 1
        assert b"Traceback" not in stderr, stderr.decode()
        assert ending is signal.SIGKILL or (updater.lock, updater.digests) == (lock, digests)
        delay *= 1.7
    assert ended >= 1
    assert ending is signal.SIGKILL or updater.unnamed <= unnamed | digests  # an update that is kept takes their name
    assert updater().returncode == 0
    assert updater.locked() == "2.0"
    assert updater.digests.isdisjoint(digests)


def test_gc_takes_all_that_an_update_killed_while_its_goldens_ran_has_left(updater: Updater, short_path: Path) -> None:
    own = with_own(updater, short_path / "own", "cache")
    assert own.line("build", str(own.folder)).returncode == 0
    lock, digests = own.lock, own.digests
    own.publish("2.0", "0.5")
    entries = {entry.digest for entry in Layout.open(own.line.home.images).entries()}
    process = subprocess.Popen(
        own.line.command("update", str(own.folder), "--engine", "runc"),
        env=own.line.variables(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((own.line.home.runc / "containers").glob("test-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None, "the update was never seen before its end"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    assert (own.lock, own.digests) == (lock, digests)
    assert own.line("gc", "--older-than", "0").returncode == 0
    assert own.unnamed == set()
    assert {entry.digest for entry in Layout.open(own.line.home.images).entries()} == entries
    assert [path.name for path in own.folder.iterdir() if "lock" in path.name] == ["dockyard.lock"]
    assert own.line("verify", own.name, "--rebuild", str(own.folder)).returncode == 0
    assert own().returncode == 0
    assert own.locked() == "2.0"
    assert own.digests.isdisjoint(digests)
    left = own.line("ps", "--engine", "runc", "--json")
    assert json.loads(left.stdout) == [], left.stdout
