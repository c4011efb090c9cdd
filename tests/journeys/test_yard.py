"""A yard at work, on both engines: deploy, update under load, roll back, crash, hang, lose the yard and the gateway."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import msgspec
import pytest

from dockyard.build.builder import Built
from dockyard.client import Client
from dockyard.errors import DeploymentError, ImageNotFoundError, UnknownInYardError, YardConflictError
from dockyard.spec.deployment import Deployment, Keep, Limits, Probes, Strategy, StrategyKind
from dockyard.spec.home import Home
from tests.support.yards import Load, RunningYard, alive, running_yard, until

pytestmark = pytest.mark.slow

PREDICT = "/models/adder/predict"
BODY = {"left": 1.0, "right": 2.0}


@pytest.fixture(scope="module", params=["runc", "docker"])
def yard(request: pytest.FixtureRequest, home: Home, adder: Built, dockerd: str) -> Iterator[RunningYard]:
    """A yard whose deployments run on one of the engines."""
    with running_yard(home, {"DOCKER_HOST": dockerd}, "--engine", request.param) as running:
        yield running


def wanted(**fields: object) -> Deployment:
    settings = {"name": "adder", "image": "adder:1"} | fields
    return Deployment(**settings)  # type: ignore[arg-type]


@pytest.fixture
def adder_up(yard: RunningYard) -> Iterator[RunningYard]:
    """The adder, deployed anew with two replicas, deleted afterwards."""
    receipt = yard.deploy(wanted(replicas=2))
    assert receipt.succeeded, receipt
    yield yard
    yard.client(lambda client: client.delete("adder", why="the test is over"))
    until(lambda: not yard.client(lambda client: client.deployments()), "adder is not deleted", 60)


@pytest.mark.parametrize("kind", list(StrategyKind))
def test_an_update_and_its_rollback_lose_no_request(adder_up: RunningYard, kind: StrategyKind) -> None:
    strategy = Strategy(kind=kind, keep=Keep.WARM)
    with Load(adder_up.port, PREDICT, BODY) as load:
        updated = adder_up.deploy(wanted(replicas=2, environment={"ROUND": "2"}, strategy=strategy), why="round 2")
        back = adder_up.rollback("adder")
    assert updated.succeeded, updated
    assert back.succeeded, back
    assert load.failures == []
    assert sum(load.answers.values()) > 20
    assert set(load.answers) == {"3.5"}
    assert (updated.source, updated.target, updated.dropped) == (1, 2, 0)
    assert updated.requests_old + updated.requests_new > 0
    status = adder_up.status("adder")
    assert (status.active, status.ready, status.state) == (1, 2, "healthy")
    history = adder_up.client(lambda client: client.history("adder"))
    assert [(each.number, each.why) for each in history] == [(2, "round 2"), (1, "a test")]


def test_an_old_revision_is_frozen_and_answers_again_after_a_rollback(adder_up: RunningYard) -> None:
    update = wanted(replicas=1, environment={"ROUND": "2"}, strategy=Strategy(kind=StrategyKind.BLUE_GREEN))
    assert adder_up.deploy(update).succeeded

    def frozen() -> bool:
        phases = [each.phase for each in adder_up.status("adder").replicas if each.revision == 1]
        return bool(phases) and set(phases) == {"frozen"}

    until(frozen, "the old revision is not frozen", 30)
    with Load(adder_up.port, PREDICT, BODY) as load:
        assert adder_up.rollback("adder").succeeded
    assert load.failures == []
    assert adder_up.ask(PREDICT, BODY) == (200, 3.5)


def test_a_revision_that_does_not_start_never_gets_a_request(adder_up: RunningYard) -> None:
    broken = wanted(replicas=2, environment={"BERTH_MODEL": "no_such_module:Nothing"})
    with Load(adder_up.port, PREDICT, BODY) as load:
        receipt = adder_up.deploy(broken)
    assert (receipt.outcome, receipt.requests_new) == ("failed", 0)
    assert "times in a row" in receipt.why
    assert load.failures == []
    status = adder_up.status("adder")
    assert (status.active, status.ready) == (1, 2)
    assert status.problem is not None
    events = adder_up.client(_events)
    crashed = [event for event in events if event.kind == "replica.crashed"]
    assert any("no_such_module" in event.detail for event in crashed), crashed


def test_a_killed_replica_comes_back_and_says_why_it_was_gone(adder_up: RunningYard) -> None:
    victim = adder_up.status("adder").replicas[0]
    os.kill(adder_up.pid_of(victim.id, victim.engine), signal.SIGKILL)

    def back() -> bool:
        now = {each.id: each for each in adder_up.status("adder").replicas}
        return now[victim.id].phase == "ready" and now[victim.id].crashes > 0

    until(back, "the replica does not come back", 30)
    told = [event.what for event in adder_up.client(_events) if event.replica == victim.id]
    assert any("signal 9" in what for what in told), told
    assert adder_up.ask(PREDICT, BODY) == (200, 3.5)


def test_requests_wait_at_the_socket_of_the_only_replica_while_it_is_started_again(adder_up: RunningYard) -> None:
    adder_up.client(lambda client: client.scale("adder", 1, why="the only one"))
    until(lambda: len(adder_up.status("adder").replicas) == 1, "the other replica does not go", 30)
    only = adder_up.status("adder").replicas[0]
    os.kill(adder_up.pid_of(only.id, only.engine), signal.SIGKILL)
    time.sleep(0.05)
    assert adder_up.ask(PREDICT, BODY, deadline=30) == (200, 3.5)


def test_a_replica_that_hangs_is_replaced(adder_up: RunningYard) -> None:
    quick = Probes(live_every_s=0.2, live_timeout_s=0.3, live_failures=2)
    assert adder_up.deploy(wanted(replicas=1, probes=quick)).succeeded
    victim = next(each for each in adder_up.status("adder").replicas if each.revision == 2)
    pid = adder_up.pid_of(victim.id, victim.engine)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: not alive(pid), "the hung process is not killed", 30)
    until(lambda: adder_up.status("adder").ready == 1, "nobody replaces it", 30)
    told = [event.what for event in adder_up.client(_events) if event.replica == victim.id]
    assert any("hangs" in what for what in told), told


def test_requests_go_on_when_the_yard_is_killed_and_the_next_yard_adopts_everything(adder_up: RunningYard) -> None:
    before = {each.id for each in adder_up.status("adder").replicas}
    with Load(adder_up.port, PREDICT, BODY) as load:
        adder_up.kill()
        time.sleep(1.0)
        alone = sum(load.answers.values())
        adder_up.start()
        until(lambda: adder_up.status("adder").ready == 2, "the next yard does not adopt the replicas")
        time.sleep(0.5)
    assert load.failures == []
    assert sum(load.answers.values()) > alone > 0
    assert {each.id for each in adder_up.status("adder").replicas} == before
    victim = adder_up.status("adder").replicas[0]
    os.kill(adder_up.pid_of(victim.id, victim.engine), signal.SIGKILL)
    until(lambda: adder_up.status("adder").replicas[0].crashes > 0, "the next yard does not see the crash", 30)
    until(lambda: adder_up.status("adder").ready == 2, "the next yard does not heal", 30)


def test_a_yard_that_lost_its_state_makes_it_anew_from_what_runs(adder_up: RunningYard) -> None:
    with Load(adder_up.port, PREDICT, BODY) as load:
        adder_up.kill()
        for file in adder_up.home.yard.glob("yard.db*"):
            file.unlink()
        restored = adder_up.line("restore", "--from-engine")
        assert restored.returncode == 0, restored.stderr
        adder_up.start()
        until(lambda: adder_up.status("adder").ready == 2, "the replicas are not known again")
    assert load.failures == []
    status = adder_up.status("adder")
    assert (status.active, status.wanted) == (1, 2)
    assert adder_up.deploy(wanted(replicas=2, environment={"ROUND": "2"})).succeeded


def test_the_gateway_comes_back_within_seconds_after_it_was_killed(adder_up: RunningYard) -> None:
    record = msgspec.json.decode((adder_up.home.yard / "gateway" / "envoy.json").read_bytes())
    os.kill(record["pid"], signal.SIGKILL)

    def answers() -> bool:
        try:
            return adder_up.ask(PREDICT, BODY, deadline=2) == (200, 3.5)
        except OSError:
            return False

    until(answers, "the gateway does not come back", 10)


def test_what_cannot_be_is_refused_before_anything_changes(adder_up: RunningYard) -> None:
    def refused(error: type[Exception], **fields: object) -> str:
        with pytest.raises(error) as caught:
            adder_up.deploy(wanted(**fields))
        return str(caught.value)

    assert "no image 'nothing:1'" in refused(ImageNotFoundError, name="other", image="nothing:1")
    assert "this host has" in refused(DeploymentError, replicas=2, resources=Limits(memory="9000GiB"))
    assert "secrets.key" in refused(DeploymentError, secrets={"key": "/no/such/file"})
    assert "placement.gpu" in refused(DeploymentError, placement={"gpu": "yes"})
    with pytest.raises(UnknownInYardError, match="no revision 99"):
        adder_up.rollback("adder", 99)
    with pytest.raises(UnknownInYardError, match="Did you mean adder"):
        adder_up.status("ader")
    assert [each.number for each in adder_up.client(lambda client: client.history("adder"))] == [1]


def test_a_second_deploy_waits_for_nobody_and_is_told_who_is_first(adder_up: RunningYard) -> None:
    preview = Strategy(kind=StrategyKind.BLUE_GREEN, preview=True)

    async def both(client: Client) -> str:
        first = await client.deploy(wanted(environment={"ROUND": "2"}, replicas=2, strategy=preview), why="first")
        with pytest.raises(YardConflictError) as caught:
            await client.deploy(wanted(environment={"ROUND": "3"}, replicas=2), why="second")
        await client.abort("adder", why="enough")
        async for update in client.rollout("adder", first.rollout):
            if update.receipt is not None:
                assert update.receipt.outcome == "aborted"
        return str(caught.value)

    assert "rolled out to revision 2" in adder_up.client(both)
    assert adder_up.ask(PREDICT, BODY) == (200, 3.5)


async def _events(client: Client) -> list[object]:
    return [event async for event in client.events(0, deployment="adder")]
