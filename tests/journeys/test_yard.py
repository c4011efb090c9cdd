"""A yard at work, on both engines: deploy, update under load, roll back, crash, hang, lose the yard and the gateway."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from dockyard.build.builder import Built
from dockyard.client import Client
from dockyard.errors import DeploymentError, ImageNotFoundError, UnknownInYardError, YardConflictError
from dockyard.oci.image import Platform
from dockyard.oci.layout import Layout
from dockyard.spec.deployment import Keep, Limits, Probes, Strategy, StrategyKind
from dockyard.spec.home import Home
from dockyard.spec.status import DriftItem
from tests.support.tiny_image import CONFIG, ELSEWHERE, base_layers, make_image
from tests.support.yards import RunningYard, Site, alive, deployed, running_yard, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["runc", "docker"])
def yard(request: pytest.FixtureRequest, home: Home, adder: Built, dockerd: str) -> Iterator[RunningYard]:
    """A yard whose deployments run on one of the engines."""
    with running_yard(home, {"DOCKER_HOST": dockerd}, "--engine", request.param) as running:
        yield running


@pytest.fixture
def site(yard: RunningYard) -> Iterator[Site]:
    """The adder, deployed with two replicas, deleted afterwards."""
    with deployed(yard, replicas=2) as site:
        yield site


@pytest.mark.parametrize("kind", list(StrategyKind))
def test_an_update_and_its_rollback_lose_no_request(site: Site, kind: StrategyKind) -> None:
    strategy = Strategy(kind=kind, keep=Keep.WARM)
    with site.load() as load:
        updated = site.deploy("round 2", replicas=2, environment={"ROUND": "2"}, strategy=strategy)
        back = site.yard.rollback(site.name)
    assert updated.succeeded, updated
    assert back.succeeded, back
    assert load.failures == []
    assert load.answered > 20
    assert set(load.answers) == {"3.5"}
    assert (updated.source, updated.target, updated.dropped) == (1, 2, 0)
    assert updated.requests_old + updated.requests_shared + updated.requests_new > 0
    status = site.status()
    assert (status.active, status.ready, status.state) == (1, 2, "healthy")
    history = site.yard.client(lambda client: client.history(site.name))
    assert [(each.number, each.why) for each in history] == [(2, "round 2"), (1, "a test")]


def test_an_old_revision_is_frozen_and_answers_again_after_a_rollback(site: Site) -> None:
    blue_green = Strategy(kind=StrategyKind.BLUE_GREEN)
    assert site.deploy(replicas=1, environment={"ROUND": "2"}, strategy=blue_green).succeeded

    def frozen() -> bool:
        phases = [each.phase for each in site.status().replicas if each.revision == 1]
        return bool(phases) and set(phases) == {"frozen"}

    until(frozen, "the old revision is not frozen", 30)
    with site.load() as load:
        assert site.yard.rollback(site.name).succeeded
    assert load.failures == []
    assert site.ask() == (200, 3.5)


def test_a_revision_that_does_not_start_never_gets_a_request(site: Site) -> None:
    with site.load() as load:
        receipt = site.deploy(replicas=2, environment={"BERTH_WRONG": "on"})
    assert (receipt.outcome, receipt.requests_new) == ("failed", 0)
    assert "times in a row" in receipt.why
    assert load.failures == []
    status = site.status()
    assert (status.active, status.ready) == (1, 2)
    assert status.problem is not None
    assert "did not start" in status.problem.what
    assert any("BERTH_WRONG: no such setting" in line for line in status.problem.log), status.problem


def test_who_follows_the_log_sees_replicas_start_and_fail(site: Site) -> None:
    wrong = site.wanted(replicas=1, environment={"BERTH_WRONG": "on"})

    async def followed(client: Client) -> list[str]:
        async with aclosing(client.logs(site.name, follow=True, tail=0)) as lines:
            proposal = await client.deploy(wrong, why="it fails")
            async for each in lines:
                if each.revision == proposal.revision:
                    seen.append(each.line)
                if sum("BERTH_WRONG" in line for line in seen) >= 2:
                    return seen
        return seen

    seen: list[str] = []
    site.yard.client(followed)
    assert "BERTH_WRONG" in seen[0]  # the first thing that such a container writes
    until(lambda: site.status().rollout is None, "the rollout does not end", 60)


def test_who_follows_the_requests_sees_each_as_it_is_answered(site: Site) -> None:
    async def followed(client: Client) -> list[int]:
        async with aclosing(client.follow_access(site.name, tail=1)) as lines:
            first = asyncio.ensure_future(anext(lines))
            await asyncio.to_thread(lambda: [site.ask() for _ in range(3)])
            return [(await first).status, *[(await anext(lines)).status for _ in range(2)]]

    assert site.yard.client(followed) == [200, 200, 200]


def test_the_yard_counts_what_it_does(site: Site) -> None:
    async def fetched(client: Client) -> str:
        with suppress(UnknownInYardError):
            await client.status("nobody")
        return (await client.metrics()).decode()

    page = site.yard.client(fetched)
    for sample in (
        'dockyard_api_requests_total{route="/v1/deployments",status="200"}',
        'dockyard_api_requests_total{route="/v1/deployments/{name}",status="404"}',
        'dockyard_events_total{kind="replica.ready"}',
        "dockyard_audit_entries_total",
    ):
        found = next((line for line in page.splitlines() if line.startswith(sample)), "")
        assert float(found.rpartition(" ")[2] or 0) >= 1, sample


def test_a_killed_replica_comes_back_and_says_why_it_was_gone(site: Site) -> None:
    victim = site.status().replicas[0]
    os.kill(site.pid_of(victim), signal.SIGKILL)

    def back() -> bool:
        now = {each.id: each for each in site.status().replicas}
        return now[victim.id].phase == "ready" and now[victim.id].crashes > 0

    until(back, "the replica does not come back", 30)
    told = [event.what for event in site.events() if event.replica == victim.id]
    assert any("signal 9" in what for what in told), told
    assert site.ask() == (200, 3.5)


def test_requests_wait_at_the_socket_of_the_only_replica_while_it_is_started_again(site: Site) -> None:
    site.yard.client(lambda client: client.scale(site.name, 1, why="the only one"))
    until(lambda: len(site.status().replicas) == 1, "the other replica does not go", 30)
    only = site.status().replicas[0]
    os.kill(site.pid_of(only), signal.SIGKILL)
    time.sleep(0.05)
    assert site.ask(30) == (200, 3.5)


def test_a_replica_that_hangs_is_replaced(site: Site) -> None:
    quick = Probes(live_every_s=0.2, live_timeout_s=0.3, live_failures=2)
    assert site.deploy(replicas=1, probes=quick).succeeded
    victim = next(each for each in site.status().replicas if each.revision == 2)
    pid = site.pid_of(victim)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: not alive(pid), "the hung process is not killed", 30)
    until(lambda: any("hangs" in event.what for event in site.events()), "nobody says that it hung", 30)
    until(lambda: site.status().ready == 1, "nobody replaces it", 30)


def test_requests_go_on_when_the_yard_is_killed_and_the_next_yard_adopts_everything(site: Site) -> None:
    before = {each.id for each in site.status().replicas}
    with site.load() as load:
        site.yard.kill()
        time.sleep(1.0)
        alone = load.answered
        site.yard.start()
        until(lambda: site.status().ready == 2, "the next yard does not adopt the replicas")
        time.sleep(0.5)
    assert load.failures == []
    assert load.answered > alone > 0
    assert {each.id for each in site.status().replicas} == before
    victim = site.status().replicas[0]
    os.kill(site.pid_of(victim), signal.SIGKILL)
    until(lambda: site.status().replicas[0].crashes > 0, "the next yard does not see the crash", 30)
    until(lambda: site.status().ready == 2, "the next yard does not heal", 30)


def test_a_revision_kept_stopped_comes_back_after_the_yard_was_killed(site: Site) -> None:
    stopped = Strategy(keep=Keep.STOPPED)
    assert site.deploy(replicas=1, environment={"ROUND": "2"}, strategy=stopped).succeeded
    until(lambda: {each.revision for each in site.status().replicas} == {2}, "the old revision is not stopped", 30)
    site.yard.kill()
    site.yard.start()
    until(lambda: site.status().ready == 1, "the next yard does not adopt the replica")
    planned = site.yard.client(lambda client: client.rollback(site.name, dry_run=True))
    assert planned.steps == ("start revision 1 again, then give it all requests",)
    with site.load() as load:
        assert site.yard.rollback(site.name).succeeded
    assert load.failures == []
    assert (site.status().active, site.ask()) == (1, (200, 3.5))


def test_a_yard_that_lost_its_state_makes_it_anew_from_what_runs(site: Site) -> None:
    with site.load() as load:
        site.yard.kill()
        for file in site.yard.home.yard.glob("yard.db*"):
            file.unlink()
        restored = site.yard.line("restore", "--from-engine")
        assert restored.returncode == 0, restored.stderr
        site.yard.start()
        until(lambda: site.status().ready == 2, "the replicas are not known again")
    assert load.failures == []
    status = site.status()
    assert (status.active, status.wanted) == (1, 2)
    assert site.deploy(replicas=2, environment={"ROUND": "2"}).succeeded


def test_the_gateway_comes_back_within_seconds_after_it_was_killed(site: Site) -> None:
    record = msgspec.json.decode((site.yard.home.yard / "gateway" / "envoy.json").read_bytes())
    os.kill(record["pid"], signal.SIGKILL)

    def answers() -> bool:
        try:
            return site.ask(2) == (200, 3.5)
        except OSError:
            return False

    until(answers, "the gateway does not come back", 10)


def test_what_cannot_be_is_refused_before_anything_changes(site: Site, tiny_program: Path) -> None:
    def refused(error: type[Exception], **fields: object) -> str:
        with pytest.raises(error) as caught:
            site.deploy(**fields)
        return str(caught.value)

    assert "no image 'nothing:1'" in refused(ImageNotFoundError, image="nothing:1")
    layout = Layout.open(site.yard.home.images)
    make_image(layout, base_layers(layout, tiny_program), "elsewhere:1", config=replace(CONFIG, platform=ELSEWHERE))
    assert f"no image for {Platform.host()}" in refused(ImageNotFoundError, image="elsewhere:1")
    assert "this host has" in refused(DeploymentError, replicas=2, resources=Limits(memory="9000GiB"))
    assert "secrets.key" in refused(DeploymentError, secrets={"key": "/no/such/file"})
    assert "placement.gpu" in refused(DeploymentError, placement={"gpu": "yes"})
    with pytest.raises(UnknownInYardError, match="no revision 99"):
        site.yard.rollback(site.name, 99)
    with pytest.raises(UnknownInYardError, match="Did you mean"):
        site.yard.status(site.name[1:])
    assert [each.number for each in site.yard.client(lambda client: client.history(site.name))] == [1]


def test_a_second_deploy_waits_for_nobody_and_is_told_who_is_first(site: Site) -> None:
    preview = Strategy(kind=StrategyKind.BLUE_GREEN, preview=True)

    async def both(client: Client) -> str:
        first = await client.deploy(site.wanted(environment={"ROUND": "2"}, replicas=2, strategy=preview), why="first")
        with pytest.raises(YardConflictError) as caught:
            await client.deploy(site.wanted(environment={"ROUND": "3"}, replicas=2), why="second")
        await client.abort(site.name, why="enough")
        async for update in client.rollout(site.name, first.rollout):
            if update.receipt is not None:
                assert update.receipt.outcome == "aborted"
        return str(caught.value)

    assert "rolled out to revision 2" in site.yard.client(both)
    assert site.ask() == (200, 3.5)


def test_drift_is_told_until_it_is_mended(site: Site) -> None:
    async def scaled(client: Client) -> tuple[DriftItem, ...]:
        await client.scale(site.name, 3, why="drift")
        return await client.drift(site.name)

    def drift() -> tuple[DriftItem, ...]:
        return site.yard.client(lambda client: client.drift(site.name))

    assert drift() == ()
    assert [(each.what, each.asked, each.found) for each in site.yard.client(scaled)] == [
        ("replicas", "3 ready", "2 ready")
    ]
    until(lambda: drift() == (), "the yard does not mend it", 30)


def test_load_and_metrics_are_those_of_gateway_and_replicas(site: Site) -> None:
    with site.load() as load:

        def seen() -> bool:
            top = site.yard.client(lambda client: client.top())
            (mine,) = (each for each in top.deployments if each.deployment == site.name)
            return bool(mine.requests_per_second and mine.memory and mine.p99_ms and len(mine.replicas) == 2)

        until(seen, "nobody sees the load", 20)
        page = site.yard.client(lambda client: client.metrics())
    assert load.failures == []
    text = page.decode() if isinstance(page, bytes) else page
    labels = f'deployment="{site.name}",revision="1"'
    for name in ("dockyard_replicas", "envoy_cluster_upstream_rq_total", "berth_requests_total"):
        assert any(line.startswith(name) and labels in line for line in text.splitlines()), name
