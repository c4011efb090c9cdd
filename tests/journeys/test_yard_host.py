"""What an operator of a yard does: policy, tokens over TLS, backup, memory that does not fit, the daemon."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dockyard.build.builder import Built
from dockyard.client import Client
from dockyard.engines.runc.freezer import is_frozen
from dockyard.errors import DeploymentError, PolicyError
from dockyard.oci.copying import copy_entry
from dockyard.oci.digest import hex_of
from dockyard.oci.layout import Layout
from dockyard.spec.deployment import Deployment, Mount, Probes, Server, Strategy, StrategyKind
from dockyard.spec.home import Home
from tests.support.certificates import loopback_certificate
from tests.support.disks import fill, small_disk
from tests.support.load import Load, free_port
from tests.support.processes import monitor_of
from tests.support.projects import CommandLine, build_in, write_adder
from tests.support.tiny_image import CONFIG, base_layers, make_image
from tests.support.yards import RunningYard, alive, running_yard, until

pytestmark = pytest.mark.slow

NOWHERE = {"DOCKER_HOST": "unix:///nowhere"}
BODY = {"left": 1.0, "right": 2.0}
PREDICT = "/models/adder/predict"
HUNGRY = '''\
"""Adds, and eats memory when it is asked to."""


class Adder:
    def load(self) -> None:
        self.eaten = []

    def predict(self, left: float, right: float = 1.0) -> float:
        """Left plus right; with a right of a million, much more than anybody has."""
        while right == 1e6:
            self.eaten.append(bytearray(16 << 20))
        return left + right
'''


@pytest.fixture
def yard(home: Home, adder: Built) -> Iterator[RunningYard]:
    """A yard on runc with 400 MiB of memory for replicas: one adder fits, two do not."""
    with running_yard(home, NOWHERE, "--memory", "400MiB") as running:
        yield running


def adder_of(**fields: object) -> Deployment:
    return Deployment(**({"name": "adder", "image": "adder:1"} | fields))  # type: ignore[arg-type]


def test_requests_wait_while_revisions_that_do_not_fit_together_are_swapped(yard: RunningYard) -> None:
    assert yard.deploy(adder_of()).succeeded
    with Load(yard.port, PREDICT, BODY) as load:
        receipt = yard.deploy(adder_of(environment={"ROUND": "2"}))
    assert receipt.succeeded, receipt
    assert load.failures == []
    assert receipt.hold_s > 0
    never = Strategy(kind=StrategyKind.BLUE_GREEN, hold_and_swap="never")
    with Load(yard.port, PREDICT, BODY) as load:
        refused = yard.deploy(adder_of(environment={"ROUND": "3"}, strategy=never))
    assert refused.outcome == "failed"
    assert "memory" in refused.why
    assert load.failures == []
    assert yard.status("adder").active == 2


def test_a_replica_that_the_kernel_kills_for_memory_is_told_as_that(home: Home, adder: Built, tmp_path: Path) -> None:
    build_in(write_adder(tmp_path / "hungry", predictor=HUNGRY), home, "hungry:1")
    with running_yard(home, NOWHERE) as yard:
        assert yard.deploy(adder_of(image="hungry:1", probes=Probes(goldens=False))).succeeded
        status, _ = yard.ask(PREDICT, {"left": 1.0, "right": 1e6}, deadline=60)
        assert status >= 500

        async def told(client: Client) -> list[str]:
            return [event.what async for event in client.events(0) if event.kind == "replica.crashed"]

        until(lambda: any("memory" in what for what in yard.client(told)), "nobody says that it was memory", 30)
        until(lambda: yard.status("adder").ready == 1, "the replica does not come back", 30)


def test_a_replica_that_ended_while_nobody_looked_is_let_go(home: Home, adder: Built) -> None:
    """As after a power failure: neither its monitor nor the yard could note how it ended."""
    with running_yard(home, NOWHERE) as yard:
        assert yard.deploy(adder_of()).succeeded
        (before,) = [each.id for each in yard.status("adder").replicas]
        assert yard.deploy(adder_of(environment={"ROUND": "2"})).succeeded
        yard.kill()
        pid = yard.pid_of(before, "runc")
        os.kill(monitor_of(before), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        yard.start()
        until(lambda: before not in {each.id for each in yard.status("adder").replicas}, "it is still there")

        async def told(client: Client) -> list[str]:
            return [event.what async for event in client.events(0) if event.kind == "replica.stop-failed"]

        assert yard.client(told) == []


def test_a_signing_policy_refuses_what_nobody_signed_and_lets_in_what_was(yard: RunningYard) -> None:
    policy = yard.home.policy
    policy.write_text("[signed]\nrequired = true\n")
    try:
        with pytest.raises(PolicyError) as caught:
            yard.deploy(adder_of())
        assert caught.value.rule == "signed"
        refused = yard.line("deploy", "adder:1")
        assert refused.returncode == 1
        assert "rule `signed`" in refused.stderr
        entries = yard.client(lambda client: client.audit(-10))
        assert any(each.outcome == "refused" and each.rule == "signed" for each in entries)
        policy.write_text("signed = 1\n")
        assert "policy.toml" in yard.line("deploy", "adder:1").stderr
        policy.unlink()
        assert "policy.toml" in yard.line("deploy", "adder:1").stderr  # it was there, so its absence lets nothing in
        policy.write_text("[signed]\nrequired = true\n")
        assert yard.line("keygen", "--unencrypted").returncode == 0
        signed = yard.line("sign", "adder:1")
        assert signed.returncode == 0, signed.stderr
        deployed = yard.line("deploy", "adder:1")
        assert deployed.returncode == 0, deployed.stderr
    finally:
        policy.unlink(missing_ok=True)
        shutil.rmtree(yard.home.keys, ignore_errors=True)


def test_over_tls_a_token_does_what_its_scope_allows(home: Home, adder: Built, tmp_path: Path) -> None:
    certificate, key = loopback_certificate(tmp_path)
    port = free_port()
    options = ("--listen", f"127.0.0.1:{port}", "--tls-cert", str(certificate), "--tls-key", str(key))
    with running_yard(home, NOWHERE, *options) as yard:
        made = yard.line("token", "create", "reader", "--scope", "viewer", "--json")
        assert made.returncode == 0, made.stderr
        secret = json.loads(made.stdout)["secret"]
        remote = CommandLine(
            home,
            {"DOCKYARD_YARD": f"https://127.0.0.1:{port}", "DOCKYARD_CA": str(certificate), "DOCKYARD_TOKEN": secret},
        )
        assert remote("status").returncode == 0
        denied = remote("deploy", "adder:1")
        assert denied.returncode == 1
        assert "operator" in denied.stderr
        stranger = CommandLine(home, {**remote.environment, "DOCKYARD_TOKEN": "dyt_wrong"})
        assert stranger("status").returncode == 1
        entries = yard.client(lambda client: client.audit(-10))
        assert {"token reader", "unknown, from 127.0.0.1"} <= {each.who for each in entries}


def test_only_so_many_revisions_are_kept_and_a_rollback_to_an_older_one_says_so(home: Home, adder: Built) -> None:
    with running_yard(home, NOWHERE, "--keep-revisions", "2") as yard:
        for number in range(5):
            assert yard.deploy(adder_of(environment={"ROUND": str(number)})).succeeded

        def known() -> list[tuple[int, str]]:
            return [(each.number, each.state) for each in yard.client(lambda client: client.history("adder"))]

        kept = [(5, "active"), (4, "kept"), (3, "kept")]
        until(lambda: known() == [*kept, (2, "retired"), (1, "retired")], "old revisions are not retired")
        until(lambda: {each.revision for each in yard.status("adder").replicas} <= {3, 4, 5}, "their replicas stay")
        yard.kill()
        yard.start()
        until(lambda: known() == kept, "old revisions are not pruned")
        gone = yard.line("rollback", "adder", "1")
        assert (gone.returncode, "revision 1 of adder is not kept any more" in gone.stderr) == (1, True), gone.stderr
        assert yard.rollback("adder").succeeded
        assert yard.ask(PREDICT, BODY) == (200, 3.5)


SLOW = '''\
"""Adds, and does not get ready while its gate is shut."""

import time
from pathlib import Path


class Adder:
    def load(self) -> None:
        while Path("/gate/shut").exists():
            time.sleep(0.02)

    def predict(self, left: float, right: float = 1.0) -> float:
        """Left plus right plus a half."""
        return left + right + 0.5
'''


def test_a_replica_that_was_sent_away_while_it_started_is_never_ready_again(
    home: Home, adder: Built, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    build_in(write_adder(tmp_path / "slow", predictor=SLOW), home, "slow:1")
    slow = Deployment(name="slow", image="slow:1", mounts=(Mount(source=str(gate), target="/gate"),))

    def events(client: Client) -> Awaitable[list[str]]:
        return _collected(each.kind async for each in client.events(0, deployment="slow"))

    def phases() -> list[str]:
        return [each.phase for one in yard.client(lambda client: client.deployments()) for each in one.replicas]

    with running_yard(home, NOWHERE) as yard, ThreadPoolExecutor() as threads:
        assert yard.deploy(slow).succeeded
        (gate / "shut").touch()
        only = yard.status("slow").replicas[0]
        os.kill(yard.pid_of(only.id, only.engine), signal.SIGKILL)
        until(lambda: phases() == ["starting"], "it is not started again")
        waiting = threads.submit(yard.ask, "/models/slow/predict", BODY, 60)
        time.sleep(0.5)  # so that the request waits at the socket: only then the replica is drained
        yard.client(lambda client: client.delete("slow"))
        until(lambda: phases() == ["draining"], "it is not sent away")
        (gate / "shut").unlink()
        assert waiting.result(60) == (200, 3.5)
        until(lambda: phases() == [], "it does not go")
        assert yard.client(events).count("replica.ready") == 1


async def _collected(items: AsyncIterator[str]) -> list[str]:
    return [each async for each in items]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("which", ["images", "runc"])
def test_a_disk_that_is_full_in_the_middle_of_a_deploy_is_told_and_costs_nothing(
    home: Home, adder: Built, tmp_path_factory: pytest.TempPathFactory, which: str
) -> None:
    own = Home(tmp_path_factory.mktemp("df") / "h")
    place = own.root / which
    larger = write_adder(tmp_path_factory.mktemp("larger"))
    (larger / "weights.bin").write_bytes(os.urandom(30 << 20))
    build_in(larger, home, "larger:1")
    with small_disk(place, "400m"):
        source, images = Layout.open(home.images), Layout.create(own.images)
        for name in ("adder:1", "larger:1"):
            copy_entry(source.entry(name), source, images, name)
        with running_yard(own, NOWHERE) as yard:
            assert yard.line("deploy", "adder:1").returncode == 0
            filler = fill(place, 0 if which == "images" else 20 << 20)
            full = yard.line("deploy", "larger:1", "--name", "adder")
            assert full.returncode == 1
            assert f"the disk that holds {place}" in " ".join(full.stderr.split()), full.stderr
            assert "Free some space" in full.stderr
            assert yard.ask(PREDICT, BODY) == (200, 3.5)
            filler.unlink()
            again = yard.line("deploy", "larger:1", "--name", "adder")
            assert again.returncode == 0, again.stderr
            assert yard.ask(PREDICT, BODY) == (200, 3.5)


def test_what_runc_keeps_of_images_that_are_gone_goes_when_a_yard_starts_and_no_replica_notices(
    yard: RunningYard, adder: Built
) -> None:
    assert yard.deploy(adder_of()).succeeded
    yard.kill()
    layers = yard.home.runc / "layers"
    gone = layers / ("0" * 64)
    gone.mkdir()
    (gone / "weights").write_bytes(b"x")
    (layers / f"{gone.name}.json").write_text('{"whiteouts": [], "opaque": []}')
    for path in layers.iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    yard.start()
    until(lambda: not gone.exists(), "the yard removes what runc keeps of an image that is gone", 30)
    assert all((layers / f"{hex_of(diff_id)}.json").is_file() for diff_id in adder.image.config.diff_ids)
    assert yard.ask(PREDICT, BODY) == (200, 3.5)


def test_an_image_of_others_is_deployed_updated_and_rolled_back_on_docker(
    home: Home, dockerd: str, tiny_program: Path
) -> None:
    layout = Layout.create(home.images)
    httpd = ("/bin/busybox", "httpd", "-f", "-p", "8000", "-h", "/app")
    config = replace(CONFIG, entrypoint=httpd, command=(), labels={})
    for note in ("one", "two"):
        make_image(layout, base_layers(layout, tiny_program), f"notes:{note}", note, config)

    def notes(tag: str, **more: object) -> Deployment:
        probes = Probes(ready_path="/note.txt", live_path="/note.txt")
        return Deployment(
            **({"name": "notes", "image": f"notes:{tag}", "server": Server(port=8000), "probes": probes} | more)
        )  # type: ignore[arg-type]

    with running_yard(home, {"DOCKER_HOST": dockerd}, "--engine", "docker") as yard:
        with pytest.raises(DeploymentError, match="nobody knows where its server listens"):
            yard.deploy(notes("one", server=Server()))
        assert yard.deploy(notes("one")).succeeded
        with Load(yard.port, "/models/notes/note.txt", None) as load:
            assert yard.deploy(notes("two")).succeeded
            assert yard.rollback("notes").succeeded
        assert load.failures == []
        assert set(load.answers) == {"one", "two"}
        with pytest.raises(DeploymentError, match="which the runc engine does not have"):
            yard.deploy(notes("one", engine="runc", environment={"ROUND": "2"}))


def test_a_backup_becomes_the_same_yard_on_an_empty_home(yard: RunningYard, short_path: Path) -> None:
    assert yard.deploy(adder_of(), why="to be backed up").succeeded
    (first,) = yard.status("adder").replicas
    file = short_path / "yard.tar"
    saved = yard.line("backup", str(file))
    assert saved.returncode == 0, saved.stderr
    assert yard.line("restore", "--verify", str(file)).returncode == 0
    other = Home(short_path / "home")
    restored = CommandLine(other)("restore", str(file))
    assert restored.returncode == 0, restored.stderr
    with running_yard(other, NOWHERE) as second:
        until(lambda: second.status("adder").ready == 1, "the restored deployment does not start", 60)
        assert second.ask(PREDICT, BODY) == (200, 3.5)
        history = second.client(lambda client: client.history("adder"))
        assert [(each.number, each.why) for each in history] == [(1, "to be backed up")]
        assert second.line("audit", "list").returncode == 0
        (mine,) = second.status("adder").replicas
        assert (other.containers / mine.id).is_dir()
        assert yard.ask(PREDICT, BODY) == (200, 3.5), "the first yard's replica has lost its socket"
    assert yard.ask(PREDICT, BODY) == (200, 3.5)
    assert [(each.id, each.crashes) for each in yard.status("adder").replicas] == [(first.id, 0)]


def test_the_last_requests_are_told_by_status(yard: RunningYard) -> None:
    assert yard.deploy(adder_of()).succeeded
    assert yard.ask(PREDICT, BODY)[0] == 200
    assert yard.ask(PREDICT, {"left": "one"})[0] == 422

    def told(*options: str) -> list[dict[str, object]]:
        done = yard.line("logs", "adder", "--access", "--json", *options)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    until(lambda: len(told()) == 2, "the gateway does not write its log")
    assert [(each["status"], each["path"], each["revision"]) for each in told()] == [
        (200, PREDICT, 1),
        (422, PREDICT, 1),
    ]
    assert [each["status"] for each in told("--status", "4xx")] == [422]
    assert [each["status"] for each in told("-n", "1")] == [422]
    assert told("--status", "5xx") == []
    assert yard.line("logs", "adder", "--access", "--status", "many").returncode == 1


def test_up_goes_to_the_background_and_down_stops_everything(home: Home, adder: Built) -> None:
    line, port = CommandLine(home, NOWHERE), free_port()
    started = line("up", "--detach", "--port", str(port))
    try:
        assert started.returncode == 0, started.stderr
        assert f"http://127.0.0.1:{port}" in started.stderr
        assert line("deploy", "adder:1").returncode == 0
        twice = line("up", "--port", str(free_port()))
        assert twice.returncode == 1
        assert "runs in" in twice.stderr
    finally:
        down = line("down", "--grace", "1")
        shutil.rmtree(home.yard, ignore_errors=True)
    assert down.returncode == 0, down.stderr
    assert "1 replicas have stopped" in down.stderr
    with socket.socket() as one:
        assert one.connect_ex(("127.0.0.1", port)) != 0


def test_a_taken_port_is_told_with_what_to_do(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = CommandLine(home, NOWHERE)("up", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "in use" in done.stderr


def test_the_unit_runs_the_same_command_and_leaves_replicas_alone(home: Home) -> None:
    done = CommandLine(home)("up", "--port", "8123", "--print-unit")
    assert done.returncode == 0
    assert "--port 8123" in done.stdout
    assert "--print-unit" not in done.stdout
    assert "KillMode=process" in done.stdout
    assert "Type=notify" in done.stdout
    assert "Restart=on-failure" in done.stdout  # `dockyard down` ends it for good
    assert f"DOCKYARD_HOME={home.root}" in done.stdout


def test_systemd_is_told_when_the_yard_answers_that_it_goes_on_and_when_it_ends(
    home: Home, adder: Built, short_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, ThreadPoolExecutor(1) as apart:
        manager.bind(str(short_path / "notify"))
        manager.settimeout(60)
        words = apart.submit(lambda: list(iter(lambda: manager.recv(100), b"STOPPING=1")))
        told = {"NOTIFY_SOCKET": str(short_path / "notify"), "WATCHDOG_USEC": "400000"}
        with running_yard(home, NOWHERE | told) as yard:
            assert yard.deploy(adder_of()).succeeded  # runc heeds that variable too, and would wait for the container
            assert yard.stop() == 0
            assert words.result(20)[:3] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


def test_what_is_frozen_is_woken_when_the_host_shuts_down_and_only_then(
    home: Home, adder: Built, tmp_path: Path, short_path: Path
) -> None:
    """A frozen process does not heed SIGTERM, so the host would wait for it until it kills all that is left."""
    said = tmp_path / "state"
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f'#!/bin/sh\n[ "$1" = is-system-running ] && cat {said}\n')
    systemctl.chmod(0o755)
    told = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTIFY_SOCKET": str(short_path / "notify")}
    with running_yard(home, NOWHERE | told) as yard:
        assert yard.deploy(adder_of()).succeeded
        (old,) = yard.status("adder").replicas
        pid = yard.pid_of(old.id, "runc")
        keeping = Strategy(kind=StrategyKind.BLUE_GREEN)
        assert yard.deploy(adder_of(environment={"ROUND": "2"}, strategy=keeping)).succeeded
        until(lambda: is_frozen(pid), "the old revision is not frozen", 30)
        said.write_text("running\n")
        assert yard.stop() == 0
        assert is_frozen(pid)
        yard.start()
        said.write_text("stopping\n")
        assert yard.stop() == 0
        assert not is_frozen(pid)
        os.kill(pid, signal.SIGTERM)
        until(lambda: not alive(pid), "it does not heed SIGTERM")


def test_sigterm_ends_the_yard_and_nothing_else(yard: RunningYard) -> None:
    assert yard.deploy(adder_of()).succeeded
    with Load(yard.port, PREDICT, BODY) as load:
        assert yard.process is not None
        os.kill(yard.process.pid, signal.SIGTERM)
        assert yard.process.wait(30) == 0
    assert load.failures == []
    assert load.answered > 0
