"""What changes deployments, on a real store, with real images, a real policy and a real audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dockyard.errors import (
    DeploymentError,
    DockyardError,
    ImageNotFoundError,
    PolicyError,
    PolicyFileError,
    YardConflictError,
)
from dockyard.oci.image import Image
from dockyard.oci.layout import Layout
from dockyard.spec.deployment import Deployment, Limits, Routing, Strategy, StrategyKind
from dockyard.spec.labels import CONTRACT
from dockyard.spec.status import Scope
from dockyard.yard.admission import Admission
from dockyard.yard.audit import Entry, Outcome
from dockyard.yard.changing import Changing
from dockyard.yard.judging import Judge, PolicyPlace
from dockyard.yard.operations import Actor, Cause
from dockyard.yard.state import Advance, RolloutPhase
from dockyard.yard.store import Store
from tests.support.tiny_image import CONFIG, make_image
from tests.yard.told import ToldEngine, ToldGateway, parts_of

GRACE = Cause(Actor("grace", Scope.OPERATOR), "a better model")
OURS = replace(CONFIG, labels={**CONFIG.labels, CONTRACT: "1"})


class Site:
    """A yard's changing half, whose rollouts end when a test says so."""

    def __init__(self, store: Store, folder: Path, place: PolicyPlace | None = None) -> None:
        self.engine = ToldEngine()
        parts = parts_of(store, folder, ToldGateway(), self.engine)
        judge = Judge(parts.host, store, place or PolicyPlace(folder / "policy.toml"), lambda: ())
        self.parts = replace(parts, admission=Admission(parts.host, store, judge))
        self.store, self.policy = store, folder / "policy.toml"
        self.changing = Changing(self.parts)
        self.images: Layout = self.parts.host.images

    def image(self, name: str, note: str = "") -> Image:
        return make_image(self.images, (), name, note or name, OURS)

    def asked(self, name: str = "iris", image: str = "iris:1", **settings: Any) -> Deployment:
        return Deployment(name=name, image=image, **settings)

    def deploy(self, asked: Deployment, **how: bool) -> Any:
        return asyncio.run(self.changing.deploy(asked, GRACE, **how))

    def deployed(self, asked: Deployment) -> None:
        self.deploy(asked)
        self.store.advance(Advance(asked.name, RolloutPhase.DONE))

    def audit(self) -> list[Entry]:
        return [written.entry for written in self.parts.audit.newest(limit=100) if written.entry.who != "yard"]


@pytest.fixture
def site(store: Store, tmp_path: Path) -> Site:
    site = Site(store, tmp_path)
    for version in (1, 2):
        site.image(f"iris:{version}")
    return site


def test_a_dry_run_tells_what_would_be_and_changes_nothing(site: Site) -> None:
    site.deployed(site.asked())
    before = (site.store.snapshot(), site.audit(), [named.name for named in site.images.images()])
    proposal = site.deploy(site.asked(image="iris:2", environment={"A": "1"}, replicas=2), dry_run=True)
    assert (proposal.kind, proposal.revision, proposal.previous, proposal.rollout) == ("update", 2, 1, None)
    assert [each.key for each in proposal.differences] == ["image", "replicas", "environment.A"]
    assert proposal.steps[0].startswith("replace revision 1 replica by replica")
    assert (site.store.snapshot(), site.audit(), [named.name for named in site.images.images()]) == before


def test_what_is_there_already_is_no_change(site: Site) -> None:
    site.deployed(site.asked())
    assert site.deploy(site.asked()).kind == "nothing"


def test_another_number_of_replicas_alone_is_no_new_revision(site: Site) -> None:
    site.deployed(site.asked())
    assert site.deploy(site.asked(replicas=2)).kind == "scale"
    assert site.store.deployment("iris").wanted == 2


def test_a_failed_revision_is_tried_again(site: Site) -> None:
    site.deploy(site.asked())
    site.store.advance(Advance("iris", RolloutPhase.FAILED, why="it did not start"))
    assert [each.key for each in site.deploy(site.asked()).differences] == ["revision"]


def test_a_name_that_is_taken_is_refused_when_a_new_one_is_asked_for(site: Site) -> None:
    site.deployed(site.asked())
    with pytest.raises(YardConflictError, match="there is a deployment 'iris' already"):
        site.deploy(site.asked(image="iris:2"), only_new=True)
    assert site.audit()[-1].outcome is Outcome.REFUSED


@pytest.mark.parametrize("only_new", [False, True])
def test_while_a_deployment_is_being_deleted_nothing_is_deployed_in_its_place(site: Site, only_new: bool) -> None:
    site.deployed(site.asked())
    site.store.add_replica("iris-1", "iris", 1, engine="runc", folder=site.parts.host.sockets / "iris-1")
    asyncio.run(site.changing.delete("iris", GRACE))
    with pytest.raises(YardConflictError, match="iris is being deleted"):
        site.deploy(site.asked(), only_new=only_new)


def test_a_restart_is_a_new_revision_of_the_same_settings_and_number(site: Site) -> None:
    site.deployed(site.asked(environment={"A": "1"}))
    asyncio.run(site.changing.scale("iris", 2, GRACE))
    proposal = asyncio.run(site.changing.restart("iris", GRACE))
    assert (proposal.kind, proposal.revision, proposal.previous) == ("restart", 2, 1)
    new, old = site.store.revision("iris", 2), site.store.revision("iris", 1)
    assert new.settings == msgspec.structs.replace(old.settings, replicas=2)
    assert (new.image_digest, site.store.deployment("iris").wanted) == (old.image_digest, 2)


def test_a_scale_that_comes_while_a_restart_asks_its_engine_is_not_lost(site: Site) -> None:
    site.deployed(site.asked())

    async def both() -> None:
        site.engine.asked.clear()
        site.engine.go.clear()
        restart = asyncio.create_task(site.changing.restart("iris", GRACE))
        await asyncio.wait_for(site.engine.asked.wait(), 5)
        scale = asyncio.create_task(site.changing.scale("iris", 2, GRACE))
        await asyncio.sleep(0.05)
        site.engine.go.set()
        await asyncio.wait_for(asyncio.gather(restart, scale), 5)

    asyncio.run(both())
    assert site.store.deployment("iris").wanted == 2


def test_a_host_name_that_another_deployment_serves_is_refused(site: Site) -> None:
    site.deployed(site.asked(routing=Routing(hosts=("models.example.org",))))
    with pytest.raises(DeploymentError, match=r"'models\.example\.org' is served by deployment iris \(revision 1\)"):
        site.deploy(site.asked("shop", routing=Routing(hosts=("other.example.org", "models.example.org"))))
    assert [each.deployment.name for each in site.store.snapshot()] == ["iris"]


def test_a_host_name_is_taken_from_the_moment_its_rollout_begins_and_until_one_without_it_is_done(site: Site) -> None:
    with_host, other = Routing(hosts=("models.example.org",)), site.asked("shop", image="iris:2")
    theirs = msgspec.structs.replace(other, routing=with_host)
    site.deploy(site.asked(routing=with_host))
    with pytest.raises(DeploymentError, match="is served by"):
        site.deploy(theirs)
    site.store.advance(Advance("iris", RolloutPhase.DONE))
    site.deploy(site.asked())
    with pytest.raises(DeploymentError, match="is served by"):
        site.deploy(theirs)
    site.store.advance(Advance("iris", RolloutPhase.DONE))
    site.deployed(theirs)
    with pytest.raises(DeploymentError, match=r"'models\.example\.org' is served by deployment shop"):
        asyncio.run(site.changing.rollback("iris", 1, GRACE))


def test_a_deployment_keeps_its_own_host_names(site: Site) -> None:
    hosts = Routing(hosts=("models.example.org",))
    site.deployed(site.asked(routing=hosts))
    assert site.deploy(site.asked(image="iris:2", routing=hosts)).kind == "update"


def test_what_the_engine_cannot_give_is_told_before_anything_is_changed(site: Site) -> None:
    with pytest.raises(DeploymentError, match="iris: GPUs take Docker"):
        site.deploy(site.asked(resources=Limits(gpus=("all",))))
    assert not site.store.snapshot()


def test_a_rollback_is_held_against_the_policy_as_it_is_now(site: Site) -> None:
    site.deployed(site.asked())
    site.deployed(site.asked(image="iris:2"))
    site.policy.write_text("[signed]\nrequired = true\n")
    with pytest.raises(PolicyError) as caught:
        asyncio.run(site.changing.rollback("iris", None, GRACE))
    assert caught.value.rule == "signed"
    entry = site.audit()[-1]
    assert (entry.who, entry.action, entry.outcome, entry.rule) == ("grace", "rollback", Outcome.REFUSED, "signed")
    assert site.store.rollout("iris") is None


def test_a_policy_that_was_named_and_is_not_there_lets_nothing_in(store: Store, tmp_path: Path) -> None:
    site = Site(store, tmp_path, PolicyPlace(tmp_path / "typo.toml", required=True))
    site.image("iris:1")
    with pytest.raises(PolicyFileError, match=r"typo\.toml"):
        site.deploy(site.asked())


def test_a_key_of_the_policy_that_is_missing_is_told_as_the_policys_fault(site: Site) -> None:
    site.policy.write_text('[signed]\nrequired = true\nkeys = ["keys/gone.pub"]\n')
    with pytest.raises(PolicyFileError, match="a key of the policy cannot be used"):
        site.deploy(site.asked())


EXCEPTED = """
[signed]
required = true
[[exceptions]]
rule = "signed"
deployment = "iris"
reason = "the key arrives in March"
until = 2999-01-01
"""


def test_an_exception_is_noted_with_who_used_it_and_not_by_a_dry_run(site: Site) -> None:
    site.policy.write_text(EXCEPTED)
    assert "rule `signed` is waived until 2999-01-01" in site.deploy(site.asked(), dry_run=True).notes[-1]
    assert not site.audit()
    site.deployed(site.asked())
    told = [(each.who, each.action, each.rule, each.why) for each in site.audit() if each.action == "exception"]
    assert told == [("grace", "exception", "signed", "the key arrives in March")]
    site.deployed(site.asked(image="iris:2"))
    asyncio.run(site.changing.rollback("iris", 1, GRACE))
    assert [each.action for each in site.audit()].count("exception") == 3


def test_an_image_that_is_gone_is_told_at_a_rollback(site: Site) -> None:
    site.deployed(site.asked())
    site.deployed(site.asked(image="iris:2"))
    for named in site.images.images():
        if named.image.digest == site.store.revision("iris", 1).image_digest:
            site.images.remove(named.name)
    site.images.sweep(0)
    with pytest.raises(ImageNotFoundError, match="revision 1 of iris is not kept any more"):
        asyncio.run(site.changing.rollback("iris", 1, GRACE))


Change = Callable[[Changing], Awaitable[Any]]


@pytest.mark.parametrize(
    ("action", "change", "before", "after"),
    [
        ("scale", lambda one: one.scale("iris", 2, GRACE), {"replicas": 1}, {"replicas": 2}),
        ("rollback", lambda one: one.rollback("iris", 1, GRACE), {"revision": 2}, {"revision": 1}),
        ("delete", lambda one: one.delete("iris", GRACE), {"revision": 2, "replicas": 1}, None),
    ],
)
def test_a_change_is_noted_with_who_why_before_and_after(
    site: Site, action: str, change: Change, before: Any, after: Any
) -> None:
    site.deployed(site.asked())
    site.deployed(site.asked(image="iris:2"))
    asyncio.run(_done(change(site.changing)))
    entry = site.audit()[-1]
    assert (entry.who, entry.action, entry.target, entry.outcome) == ("grace", action, "iris", Outcome.DONE)
    assert (entry.why, entry.before, entry.after) == ("a better model", before, after)


def test_a_deploy_is_noted_with_its_settings_but_not_with_the_values_of_variables(site: Site) -> None:
    site.deployed(site.asked(environment={"TOKEN": "hush"}))
    site.deployed(site.asked(image="iris:2"))
    created, updated = [each for each in site.audit() if each.action in {"create", "update"}]
    assert (created.before, created.after["environment"]) == (None, {"TOKEN": "***"})
    assert (updated.before["image"], updated.after["image"]) == tuple(
        f"iris:{number}@{site.store.revision('iris', number).image_digest}" for number in (1, 2)
    )


@pytest.mark.parametrize("action", ["restart", "promote", "abort"])
def test_what_moves_a_rollout_is_noted(site: Site, action: str) -> None:
    site.deployed(site.asked())
    if action == "promote":
        site.deploy(site.asked(image="iris:2", strategy=Strategy(kind=StrategyKind.BLUE_GREEN, preview=True)))
        site.store.advance(Advance("iris", RolloutPhase.PREVIEW))
    elif action == "abort":
        site.deploy(site.asked(image="iris:2"))
    asyncio.run(_done(getattr(site.changing, action)("iris", GRACE)))
    entry = site.audit()[-1]
    assert (entry.who, entry.action, entry.outcome) == ("grace", action, Outcome.DONE)


@pytest.mark.parametrize(
    ("action", "change"),
    [
        ("deploy", lambda one: one.deploy(Deployment(name="iris", image="iris:3"), GRACE)),
        ("deploy", lambda one: one.deploy(Deployment(name="iris", image="iris:2"), GRACE)),
        ("rollback", lambda one: one.rollback("iris", 9, GRACE)),
        ("scale", lambda one: one.scale("nobody", 2, GRACE)),
        ("restart", lambda one: one.restart("iris", GRACE)),
        ("promote", lambda one: one.promote("iris", GRACE)),
        ("abort", lambda one: one.abort("nobody", GRACE)),
        ("delete", lambda one: one.delete("nobody", GRACE)),
    ],
)
def test_a_change_that_is_refused_is_noted_under_its_own_name_with_what_refused_it(
    site: Site, action: str, change: Change
) -> None:
    site.deployed(site.asked())
    site.deploy(site.asked(environment={"A": "1"}))
    with pytest.raises(DockyardError) as caught:
        asyncio.run(_done(change(site.changing)))
    entry = site.audit()[-1]
    assert (entry.who, entry.action, entry.outcome) == ("grace", action, Outcome.REFUSED)
    assert (entry.rule, entry.why) == (caught.value.what, "a better model")


async def _done(change: Awaitable[Any]) -> None:
    await change
