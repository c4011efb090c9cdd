"""The operator's pages, tried: their commands run as written on a real yard, and what they say shows, shows.

Only the port differs: pages say 8080, a test takes a free one. Each step of an incident is a marked block of its page.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dockyard.build.builder import Built
from dockyard.errors import StoreError
from dockyard.spec.deployment import Deployment
from dockyard.spec.home import Home
from tests.docs.pages import DOCS, blocks
from tests.support.load import Load
from tests.support.projects import MANIFEST, PREDICTOR, CommandLine, build_in, write_adder
from tests.support.yards import RunningYard, alive, running_yard, until

pytestmark = pytest.mark.slow

OPERATIONS = DOCS / "operations"
NOWHERE = {"DOCKER_HOST": "unix:///nowhere"}
BODY = {"left": 1.0, "right": 2.0}
PREDICT = "/models/iris/predict"
SLOW = '''\
"""Loads, and loads."""

import time


class Adder:
    def load(self) -> None:
        print("it loads for ever", flush=True)
        time.sleep(600)

    def predict(self, left: float, right: float = 1.0) -> float:
        """Left plus right."""
        return left + right
'''
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a tmpfs")


@dataclass(frozen=True)
class Operator:
    """Somebody who follows the pages, in a folder of their own."""

    yard: RunningYard
    folder: Path

    def follow(self, page: str, mark: str) -> str:
        """Run a block as it is written; it must succeed. Both outputs."""
        return follow(page, mark, self.folder, self.yard.home, self.yard.port)

    def deploy(self, **fields: Any) -> None:
        """A revision of the adder under the pages' name, which becomes ready."""
        receipt = self.yard.deploy(iris(**fields))
        assert receipt.succeeded, receipt

    def gateway(self) -> int:
        """The process of Envoy."""
        return int(json.loads((self.yard.home.yard / "gateway" / "envoy.json").read_text())["pid"])


def iris(**fields: Any) -> Deployment:
    return Deployment(**({"name": "iris", "image": "adder:1"} | fields))


def block(page: str, mark: str) -> str:
    (found,) = (one.text for one in blocks(OPERATIONS / f"{page}.md") if one.mark == mark)
    return found


def follow(page: str, mark: str, folder: Path, home: Home, port: int = 8080) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**CommandLine(home, NOWHERE).variables(), "PATH": path}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block(page, mark).replace("127.0.0.1:8080", f"127.0.0.1:{port}")],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def yard(home: Home, adder: Built) -> Iterator[RunningYard]:
    with running_yard(home, NOWHERE) as running:
        yield running


@pytest.fixture
def operator(yard: RunningYard, tmp_path: Path) -> Iterator[Operator]:
    yield Operator(yard, tmp_path)
    for name in [each.name for each in yard.client(lambda client: client.deployments())]:
        yard.client(lambda client: client.delete(name, why="the test is over"))  # noqa: B023
    until(lambda: not yard.client(lambda client: client.deployments()), "it is not deleted", 60)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_the_unit_of_the_page_is_valid(home: Home, tmp_path: Path) -> None:
    told = follow("install", "the unit", tmp_path, home)
    assert "dockyard.service" not in told, told
    assert "ExecStart=" in (tmp_path / "dockyard.service").read_text()


def test_after_an_upgrade_everything_is_as_before(operator: Operator) -> None:
    operator.deploy()
    assert operator.follow("install", "it works").endswith("ok")
    operator.follow("upgrade", "before")
    envoy = operator.gateway()
    with Load(operator.yard.port, PREDICT, BODY) as load:
        assert operator.yard.stop() == 0
        operator.yard.start()
        until(lambda: operator.yard.status("iris").ready == 1, "the next yard does not adopt it")
    assert load.failures == []
    assert operator.gateway() == envoy
    assert "healthy" in operator.follow("upgrade", "after")


def test_a_backup_is_restored_as_the_page_says(operator: Operator, short_path: Path) -> None:
    operator.deploy()
    assert "is whole" in operator.follow("backup-and-recovery", "backup")
    other = Home(short_path / "home")
    assert "restored to" in follow("backup-and-recovery", "restore", operator.folder, other)
    with running_yard(other, NOWHERE) as second:
        until(lambda: second.status("iris").ready == 1, "the restored deployment does not start", 60)
        assert second.ask(PREDICT, BODY) == (200, 3.5)
        assert operator.yard.ask(PREDICT, BODY) == (200, 3.5), "who practises must not harm the yard that serves"
    assert operator.yard.ask(PREDICT, BODY) == (200, 3.5)


def test_a_lost_state_comes_back_from_the_engine(operator: Operator) -> None:
    operator.deploy()
    yard = operator.yard
    with Load(yard.port, PREDICT, BODY) as load:
        yard.kill()
        for file in yard.home.yard.glob("yard.db*"):
            file.unlink()
        refused = yard.line("up", "--port", str(yard.port))
        assert "restore --from-engine" in refused.stderr
        silent = yard.line("restore", "--from-engine")
        assert "Docker may have replicas of this yard" in silent.stderr
        assert not (yard.home.yard / "yard.db").exists(), "nothing was changed"
        assert "known again: iris" in operator.follow("backup-and-recovery", "from the engine, without docker")
        yard.start()
        until(lambda: yard.status("iris").ready == 1, "the replica is not adopted")
    assert load.failures == []


def test_a_stuck_rollout_shows_and_is_given_up(operator: Operator, tmp_path: Path) -> None:
    operator.deploy()
    before = operator.yard.status("iris").active
    build_in(write_adder(tmp_path / "slow", predictor=SLOW), operator.yard.home, "slow:1")
    operator.yard.client(lambda client: client.deploy(iris(image="slow:1"), why="to be stuck"))
    until(lambda: len(operator.yard.status("iris").replicas) == 2, "nothing is started")
    look = functools.partial(operator.follow, "incidents", "rollout stuck: look")
    until(lambda: "it loads for ever" in look(), "its log does not show")  # it starts with the time that others leave
    told = look()
    assert "rollout" in told
    assert "starting, 0/1 ready" in told
    operator.follow("incidents", "rollout stuck: mend")
    until(lambda: operator.yard.status("iris").rollout is None, "the rollout does not end", 30)
    status = operator.yard.status("iris")
    assert (status.active, status.ready) == (before, 1)
    assert operator.yard.ask(PREDICT, BODY) == (200, 3.5)


def test_a_crash_loop_shows_and_a_rollback_mends_it(operator: Operator) -> None:
    operator.deploy()
    good = operator.yard.status("iris").active
    operator.deploy(environment={"ROUND": "2"})
    bad = operator.yard.status("iris").active
    for crashes in (1, 2):
        (victim,) = (each for each in operator.yard.status("iris").replicas if each.revision == bad)
        os.kill(operator.yard.pid_of(victim.id, "runc"), signal.SIGKILL)
        until(lambda: _crashes(operator, victim.id) == crashes, "the crash is not seen", 30)  # noqa: B023
        until(lambda: operator.yard.status("iris").ready == 1, "it is not started again", 30)
    told = operator.follow("incidents", "crash loop: look")
    assert "crashes" in told
    assert "signal 9" in told
    operator.follow("incidents", "crash loop: mend")
    assert operator.yard.status("iris").active == good
    assert operator.yard.ask(PREDICT, BODY) == (200, 3.5)
    given_up = operator.yard.deploy(iris(environment={"BERTH_WRONG": "on"}))
    assert "times in a row" in given_up.why
    told = operator.follow("incidents", "crash loop: look")
    assert "exit code 2" in told
    assert "BERTH_WRONG: no such setting" in told
    assert operator.yard.status("iris").active == good


def _crashes(operator: Operator, replica: str) -> int:
    return next(each.crashes for each in operator.yard.status("iris").replicas if each.id == replica)


def test_a_killed_gateway_is_back_with_its_routes(operator: Operator) -> None:
    operator.deploy()
    before = operator.gateway()
    os.kill(before, signal.SIGKILL)
    until(lambda: operator.gateway() != before, "nobody starts the gateway again")
    until(lambda: _answers(operator), "the gateway does not answer")
    assert operator.follow("incidents", "gateway down: symptom") == "ok"
    assert "iris" in operator.follow("incidents", "gateway down: look")
    assert operator.yard.ask(PREDICT, BODY) == (200, 3.5)
    assert "has ended; it is started again" in (operator.yard.home.yard / "up.log").read_text()


def _answers(operator: Operator) -> bool:
    try:
        return operator.yard.ask(PREDICT, BODY)[0] == 200
    except OSError:
        return False


def test_a_lost_audit_key_is_made_anew_and_noted(operator: Operator) -> None:
    yard = operator.yard
    assert yard.stop() == 0
    (yard.home.yard / "audit.key").unlink()
    before = (yard.home.yard / "audit.pub").read_text().split()
    yard.start()
    told = operator.follow("incidents", "audit key lost: look")
    assert "audit.key" in told
    after = (yard.home.yard / "audit.pub").read_text().split()
    assert after[:-1] == before
    assert after[-1] in told
    assert yard.line("audit", "export", str(operator.folder / "audit.log")).returncode == 0
    checked = yard.line(
        "audit", "verify", str(operator.folder / "audit.log"), "--key", str(yard.home.yard / "audit.pub")
    )
    assert checked.returncode == 0, checked.stderr


def test_a_lost_signing_key_is_replaced_and_what_it_signed_counts_no_more(operator: Operator) -> None:
    yard = operator.yard
    yard.home.policy.write_text("[signed]\nrequired = true\n")
    try:
        for words in (("keygen", "--unencrypted"), ("sign", "adder:1"), ("deploy", "adder:1", "--name", "iris")):
            done = yard.line(*words)
            assert done.returncode == 0, done.stderr
        told = operator.follow("incidents", "signing key lost: look")
        assert ".pub" in told
        assert "iris" in told
        shutil.rmtree(yard.home.keys)
        refused = yard.line("deploy", "adder:1", "--name", "iris", "--env", "ROUND=2")
        assert (refused.returncode, "rule `signed`" in refused.stderr) == (1, True), refused.stderr
        assert yard.ask(PREDICT, BODY)[0] == 200
        for words in (("keygen", "--unencrypted"), ("sign", "adder:1")):
            assert yard.line(*words).returncode == 0
        again = yard.line("deploy", "adder:1", "--name", "iris", "--env", "ROUND=2")
        assert again.returncode == 0, again.stderr
    finally:
        yard.home.policy.write_text("")  # not removed: then nothing could be deployed
        shutil.rmtree(yard.home.keys, ignore_errors=True)


def test_a_leaked_token_is_ended_and_replaced(operator: Operator) -> None:
    assert operator.yard.line("token", "create", "ci", "--scope", "operator").returncode == 0
    assert "token.create" in operator.follow("incidents", "token leaked: look")
    assert "dyt_" in operator.follow("incidents", "token leaked: mend")
    tokens = {each.name: each.revoked for each in operator.yard.client(lambda client: client.tokens())}
    assert tokens["ci"] is not None
    assert tokens["ci-2"] is None


def test_what_is_looked_at_and_collected_is_there(operator: Operator) -> None:
    operator.deploy()
    assert operator.yard.ask(PREDICT, BODY)[0] == 200
    assert "iris" in operator.follow("incidents", "signing key lost: look")
    assert "the yard answers on" in operator.follow("incidents", "engine gone: look")
    operator.follow("escalation", "collect")
    report = operator.folder / "dockyard-report"
    assert json.loads((report / "status.json").read_text())[0]["name"] == "iris"
    assert all(json.loads(line) for line in (report / "events.jsonl").read_text().splitlines())
    assert all(file.stat().st_size for file in report.iterdir() if file.name not in {"access.log", "envoy.log"})


@pytest.fixture
def small(home: Home) -> Iterator[Path]:
    """The yard's folder, on a disk of 8 MB."""
    home.yard.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", home.yard], check=True)
    yield home.yard
    subprocess.run(["umount", "--lazy", home.yard], check=True)


@needs_root
def test_a_full_disk_refuses_changes_and_stops_nothing(home: Home, adder: Built, small: Path, tmp_path: Path) -> None:
    with running_yard(home, NOWHERE) as yard:
        operator = Operator(yard, tmp_path)
        operator.deploy()
        replica = yard.status("iris").replicas[0].id
        pid = yard.pid_of(replica, "runc")
        fill(small / "gateway" / "access.log.1")
        with (
            Load(yard.port, PREDICT, BODY) as load,
            pytest.raises(StoreError, match="is full, the change was not made"),
        ):
            operator.deploy(environment={"ROUND": "2"})
        assert load.failures == []
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "it does not end")
        assert "100%" in operator.follow("incidents", "disk full: look")
        assert yard.status("iris").replicas[0].crashes == 0  # seen, and nowhere to note it
        operator.follow("incidents", "disk full: mend")
        until(lambda: yard.status("iris").replicas[0].crashes == 1, "the crash is not noted", 30)
        until(lambda: yard.status("iris").ready == 1, "the replica is not started again", 30)
        operator.deploy(environment={"ROUND": "2"})
        assert yard.ask(PREDICT, BODY) == (200, 3.5)
        history = yard.client(lambda client: client.history("iris"))
        assert [each.number for each in history] == [2, 1]


def fill(file: Path) -> None:
    """Leave no byte on the disk."""
    with file.open("wb", buffering=0) as out, suppress(OSError):
        while True:
            out.write(bytes(4096))
    assert os.statvfs(file.parent).f_bavail == 0


def test_who_follows_the_page_about_deploying_has_deployed_updated_and_gone_back(
    operator: Operator, tmp_path: Path
) -> None:
    project = tmp_path / "iris"
    write_adder(project, MANIFEST.replace('"adder"', '"iris"'))
    page = "../how-to/deploy"
    reader = Operator(operator.yard, project)
    reader.follow(page, "deploy")
    first = operator.yard.status("iris").active
    assert operator.yard.ask(PREDICT, BODY) == (200, 3.5)
    write_adder(project, (project / "dockyard.toml").read_text(), PREDICTOR.replace("0.5", "0.25"))
    shutil.rmtree(project / "goldens")
    reader.follow(page, "update")
    assert operator.yard.ask(PREDICT, BODY) == (200, 3.25)
    assert "better weights" in reader.follow(page, "back")
    assert operator.yard.status("iris").active == first
    assert operator.yard.ask(PREDICT, BODY) == (200, 3.5)
