"""What the verbs beside `deploy` do in a real yard: restart, preview and promotion, dry runs, a named rollback, sleep.

One yard on runc and Docker for all of them. Updates, crashes and the loss of parts are in test_yard.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from dockyard.build.builder import Built
from dockyard.errors import DeploymentError, YardConflictError
from dockyard.oci.layout import REF_NAME, Layout
from dockyard.spec.deployment import Deployment, Limits, Mount, Probes, Routing, Strategy, StrategyKind
from dockyard.spec.home import Home
from dockyard.spec.status import Difference, Proposal
from tests.support.projects import PREDICTOR, build_in, write_adder
from tests.support.yards import ADDER_BODY, Answer, RunningYard, Site, deployed, running_yard, until

pytestmark = pytest.mark.slow

PREVIEW = Strategy(kind=StrategyKind.BLUE_GREEN, preview=True)
ROUND_2 = {"ROUND": "2"}
WITNESS = '''\
"""Tells what it finds in its container."""

import os
from pathlib import Path


class Adder:
    def load(self) -> None:
        pass

    def predict(self, path: str) -> dict[str, str]:
        """The file's content and mode, the file system that holds it, what came of writing there; and a variable."""
        file = Path(path)
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        holding = max((each for each in mounts if file.is_relative_to(each[4])), key=lambda each: len(each[4]))
        try:
            (file.parent / "new").write_text("x")
            written = "yes"
        except OSError as error:
            written = error.strerror
        return {
            "content": file.read_text(),
            "mode": oct(file.stat().st_mode & 0o777),
            "filesystem": holding[holding.index("-") + 1],
            "written": written,
            "GREETING": os.environ.get("GREETING", ""),
        }
'''


@pytest.fixture(scope="module")
def yard(home: Home, adder: Built, dockerd: str) -> Iterator[RunningYard]:
    """A yard with both engines, on a host with a label; runc is for deployments that name none."""
    with running_yard(home, {"DOCKER_HOST": dockerd}, "--engine", "runc", "--label", "zone=a") as running:
        yield running


@pytest.fixture
def site(yard: RunningYard) -> Iterator[Site]:
    """The adder with one replica, deleted afterwards."""
    with deployed(yard) as site:
        yield site


@pytest.fixture(scope="module")
def witness(home: Home, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that tells what it finds in its container."""
    folder = write_adder(tmp_path_factory.mktemp("witness"), predictor=WITNESS)
    (folder / "goldens" / "one.json").unlink()
    build_in(folder, home, "witness:1")
    return "witness:1"


def in_preview(site: Site) -> int:
    """Bring a second revision into preview; the number of its rollout."""
    proposal = site.yard.client(
        lambda client: client.deploy(site.wanted(environment=ROUND_2, strategy=PREVIEW), why="to be tried")
    )
    assert proposal.rollout is not None

    def waits() -> bool:
        rollout = site.status().rollout
        return rollout is not None and rollout.phase == "preview"

    until(waits, "the new revision does not get into preview", 60)
    return proposal.rollout


def test_a_restart_replaces_all_replicas_by_new_ones_and_loses_no_request(yard: RunningYard) -> None:
    with deployed(yard, replicas=2, environment=ROUND_2, resources=Limits(memory="200MiB")) as site:
        before = site.status()
        old = {each.id: site.pid_of(each) for each in before.replicas}
        with site.load() as load:
            receipt = yard.change(lambda client: client.restart(site.name, why="a leak"))
        assert (receipt.outcome, receipt.source, receipt.target, receipt.dropped) == ("done", 1, 2, 0)
        assert load.failures == []
        assert load.answered > 20
        after = site.status()
        assert (after.active, after.ready, after.state, after.asked) == (2, 2, "healthy", before.asked)
        serving = [each for each in after.replicas if each.routed]
        assert [each.revision for each in serving] == [2, 2]
        assert old.keys().isdisjoint(each.id for each in serving)
        assert set(old.values()).isdisjoint(site.pid_of(each) for each in serving)
        assert site.answer().revision == 2
        newest, *_ = yard.client(lambda client: client.history(site.name))
        assert newest.why == "a leak"


def as_told(site: Site, line: str) -> Answer:
    """The answer for who does as a line of `dockyard status` tells: an address, and perhaps a header."""
    url = urlsplit(line.split(maxsplit=1)[0])
    headers = {"Host": url.netloc} | dict(re.findall(r"`([\w-]+): ([^`]+)`", line))
    return site.yard.answer(url.path, ADDER_BODY, headers)


def test_a_preview_answers_where_status_tells_until_it_is_promoted_and_nobody_else_sees_it(site: Site) -> None:
    rollout = in_preview(site)
    lines = site.status().preview_urls
    assert lines
    assert [(each.status, each.revision) for each in (as_told(site, line) for line in lines)] == [(200, 2)] * len(lines)
    shown = site.yard.line("status", site.name)
    assert all(line in shown.stdout for line in lines), shown.stdout
    host = site.yard.answer("/predict", ADDER_BODY, {"Host": f"preview.{site.name}.localhost"})
    header = site.answer({"x-dockyard-preview": site.name})
    assert [(each.revision, each.body) for each in (host, header)] == [(2, 3.5)] * 2
    assert {site.answer().revision for _ in range(10)} == {1}
    with site.load() as load:
        receipt = site.yard.change(lambda client: client.promote(site.name, why="it is good"))
    assert (receipt.rollout, receipt.outcome, receipt.target) == (rollout, "done", 2)
    assert load.failures == []
    assert {site.answer().revision for _ in range(10)} == {2}
    assert site.status().preview_urls == ()
    assert site.answer({"x-dockyard-preview": site.name}).status == 404


def test_a_preview_that_is_given_up_leaves_the_traffic_where_it_was(site: Site) -> None:
    in_preview(site)
    with site.load() as load:
        receipt = site.yard.change(lambda client: client.abort(site.name, why="it is no good"))
    assert (receipt.outcome, receipt.requests_new) == ("aborted", 0)
    assert load.failures == []
    assert {site.answer().revision for _ in range(10)} == {1}
    refused = site.answer({"x-dockyard-preview": site.name})
    assert (refused.status, refused.revision) == (404, None)
    assert "no preview" in refused.body["error"]
    assert site.status().active == 1
    with pytest.raises(YardConflictError):
        site.yard.client(lambda client: client.promote(site.name, why="too late"))


@pytest.mark.parametrize("engine", ["runc", "docker"])
def test_secrets_variables_and_mounts_arrive_in_a_replica(
    yard: RunningYard, witness: str, engine: str, tmp_path: Path
) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    secret.write_text("open sesame\n")
    secret.chmod(0o600)
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)  # so that nothing but the mount keeps the replica from writing
    (folder / "note.txt").write_text("a note")
    given: dict[str, object] = {
        "image": witness,
        "engine": engine,
        "environment": {"GREETING": "good morning"},
        "secrets": {"key": str(secret)},
        "mounts": (
            Mount(source=str(folder), target="/data"),
            Mount(source=str(folder), target="/shared", writable=True),
        ),
    }
    with deployed(yard, **given) as site:

        def found(path: str) -> dict[str, str]:
            answer = yard.answer(site.path, {"path": path})
            assert answer.status == 200, answer
            return dict(answer.body)

        told = found("/run/secrets/key")
        assert (told["content"], told["mode"], told["GREETING"]) == ("open sesame\n", "0o400", "good morning")
        assert told["filesystem"] in {"tmpfs", "ramfs"}
        assert told["written"] in {"Read-only file system", "Permission denied"}
        mounted = found("/data/note.txt")
        assert (mounted["content"], mounted["written"]) == ("a note", "Read-only file system")
        assert not (folder / "new").exists()
        assert found("/shared/note.txt")["written"] == "yes"
        assert (folder / "new").exists()
        assert {each.engine for each in site.status().replicas} == {engine}


def test_an_image_that_answers_otherwise_than_its_goldens_say_gets_no_request(
    site: Site, home: Home, tmp_path: Path
) -> None:
    build_in(write_adder(tmp_path, predictor=PREDICTOR.replace("0.5", "1.5")), home, "mistaken:1")
    with site.load() as load:
        done = site.yard.line("deploy", "mistaken:1", "--name", site.name)
    assert done.returncode == 1
    told = done.stdout + done.stderr
    assert "golden" in told, told
    assert "one: $: expected 3.5, got 4.5" in told, told
    assert load.failures == []
    assert set(load.answers) == {"3.5"}
    assert (site.status().active, site.answer().revision) == (1, 1)
    unproven = site.deploy(image="mistaken:1", probes=Probes(goldens=False))
    assert unproven.succeeded, unproven
    assert site.ask() == (200, 4.5)


def test_dry_runs_and_diffs_tell_what_would_be_and_change_nothing(site: Site) -> None:
    def now() -> tuple[Any, ...]:
        status = site.status()
        history = site.yard.client(lambda client: client.history(site.name))
        images = {entry.annotations.get(REF_NAME) for entry in Layout.open(site.yard.home.images).entries()}
        audit = site.yard.client(lambda client: client.audit(-5))
        return status.asked, status.replicas, status.traffic, history, images, audit

    before = now()
    options = ("deploy", "adder:1", "--name", site.name, "-e", "ROUND=2", "--replicas", "2")
    shown = site.yard.line(*options, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    for line in (
        f"{site.name}: changes  revision 1 -> 2",
        "~ replicas: 1 -> 2",
        "+ environment.ROUND: 2",
        "1. replace revision 1 replica by replica, at most 1 more and 0 fewer than 2 replicas at a time and prove them",
        "2. keep revision 1 frozen for 600 s, for an instant rollback",
    ):
        assert line in shown.stdout, shown.stdout
    diff = site.yard.line(*options, "--diff")
    assert (diff.returncode, "~ replicas: 1 -> 2" in diff.stdout, "replace revision" in diff.stdout) == (0, True, False)
    preview = proposed(site, strategy=PREVIEW, environment=ROUND_2)
    assert preview.steps[:3] == (
        "start 1 replica of revision 2 beside revision 1 and prove them with the image's goldens",
        "wait until somebody promotes it",
        "give all requests to revision 2 at once",
    )
    scaled = proposed(site, replicas=3)
    assert (scaled.kind, scaled.steps) == ("scale", ("start 2 replicas",))
    assert scaled.differences == (Difference(key="replicas", before=1, after=3),)
    assert (proposed(site).kind, proposed(site).differences) == ("nothing", ())
    created = site.yard.client(
        lambda client: client.deploy(Deployment(name="not-yet", image="adder:1"), dry_run=True, only_new=True)
    )
    assert (created.kind, created.revision, created.steps[-1]) == ("create", 1, "give all requests to revision 1")
    assert now() == before
    taken = site.yard.line(*options, "--new")
    assert taken.returncode == 1
    assert f"there is a deployment '{site.name}' already" in taken.stderr
    assert now()[:-1] == before[:-1]  # the audit log may tell of the refusal


def proposed(site: Site, **fields: object) -> Proposal:
    """What a deploy with these settings would do."""
    return site.yard.client(lambda client: client.deploy(site.wanted(**fields), dry_run=True))


def test_a_rollback_goes_to_the_revision_that_is_named(site: Site) -> None:
    for number in ("2", "3"):
        assert site.deploy(f"round {number}", environment={"ROUND": number}).succeeded
    with site.load() as load:
        receipt = site.yard.rollback(site.name, 1)
    assert (receipt.outcome, receipt.source, receipt.target) == ("done", 3, 1)
    assert load.failures == []
    status = site.status()
    assert status.asked is not None
    assert (status.active, status.asked.environment, site.answer().revision) == (1, {}, 1)
    assert site.yard.rollback(site.name, 2).succeeded
    assert site.answer().revision == 2
    with pytest.raises(YardConflictError, match=r"revision 2 of .* has the traffic already"):
        site.yard.rollback(site.name, 2)


def test_a_deployment_without_replicas_sleeps_says_so_and_wakes_when_it_is_scaled(site: Site) -> None:
    scale(site, 0)
    until(lambda: site.status().replicas == (), "its replica does not go", 30)
    assert (site.status().state, site.status().ready) == ("asleep", 0)
    refused = site.answer()
    assert (refused.status, refused.revision) == (503, None)
    assert f"no replica of deployment {site.name} is ready" in refused.body["error"]
    assert refused.body["request_id"] == refused.headers["x-request-id"]
    assert refused.headers["content-type"] == "application/json"
    scale(site, 1)
    until(lambda: site.status().state == "healthy", "it does not wake", 30)
    assert site.ask() == (200, 3.5)
    assert site.answer().revision == 1


def scale(site: Site, replicas: int) -> None:
    """Ask for another number of replicas."""
    site.yard.client(lambda client: client.scale(site.name, replicas, why="a test"))


def test_a_deployment_goes_only_to_a_host_with_the_labels_that_it_asks_for(site: Site) -> None:
    assert site.deploy(placement={"zone": "a"}).succeeded
    assert site.answer().revision == 2
    with pytest.raises(DeploymentError, match=r"placement\.zone"):
        site.deploy(placement={"zone": "b"})


def test_a_host_name_leads_to_its_own_deployment_and_to_no_other(site: Site) -> None:
    with deployed(site.yard) as other:
        host = f"{site.name}.example.org"
        assert site.deploy(routing=Routing(hosts=(host,))).succeeded

        def asked(host: str, path: str = "/predict") -> tuple[int, int | None]:
            answer = site.yard.answer(path, ADDER_BODY, {"Host": host})
            return answer.status, answer.revision

        assert asked(host) == (200, 2)
        assert asked(f"{host}:{site.yard.port}") == (200, 2)
        assert asked(f"{other.name}.localhost") == (200, 1)
        assert asked(host, other.path) == (404, 2)  # of the replica that the host leads to
        assert asked("nobody.example.org") == (404, None)
        assert (site.answer().revision, other.answer().revision) == (2, 1)
        assert f"http://{host}:{site.yard.port}" in site.status().urls
        assert not any(host in url for url in other.status().urls)


def test_a_yard_tells_where_everything_is_when_it_is_up(yard: RunningYard) -> None:
    told = (yard.home.yard / "up.log").read_text()
    assert re.search(r"^the yard is up after \d+\.\d\d s$", told, re.MULTILINE), told
    rows = dict(re.findall(r"^  (\w+) +(.+)$", told, re.MULTILINE))
    assert rows["gateway"].startswith(f"http://127.0.0.1:{yard.port} ")
    assert str(yard.home.yard_socket) in rows["API"]
    assert rows["engines"].split(", ") == ["docker", "runc (default)"]
    assert re.fullmatch(r"[\d.]+ [GM]B for all replicas", rows["memory"])
    assert rows["state"] == str(yard.home.yard)
    assert yard.process is not None
    assert rows["process"] == str(yard.process.pid)
    assert rows["deploy"].startswith("dockyard deploy IMAGE")
