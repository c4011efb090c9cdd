"""What the yard's store forgets, and what it never does: revisions, rollouts, tokens, and images that nothing needs."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from dockyard.engines.docker.engine import DockerEngine
from dockyard.engines.runc.engine import RuncEngine
from dockyard.errors import UnknownInYardError, YardConflictError
from dockyard.oci.image import Image
from dockyard.oci.layout import SWEEP_AGE, Layout
from dockyard.spec.status import Scope
from dockyard.yard.auth import Tokens
from dockyard.yard.freeing import free
from dockyard.yard.naming import image_name, received_name
from dockyard.yard.pruning import Pruning, Retention
from dockyard.yard.state import Advance, RevisionState, RolloutPhase
from dockyard.yard.store import Store
from tests.oci.samples import sample_image
from tests.yard.conftest import ADA, Clock, revision

DAY = 86_400.0


@pytest.fixture
def images(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "images")


def end(store: Store, phase: RolloutPhase = RolloutPhase.DONE, name: str = "iris") -> None:
    store.advance(Advance(name, phase, "", progressed=True, holding=False))


def rolled_out(store: Store, count: int, name: str = "iris") -> None:
    """So many revisions, each of which had the traffic once; those before the last are retired."""
    for number in range(1, count + 1):
        store.add_revision(revision(name, content=str(number)), ADA)
        store.begin_rollout(name, number, ADA)
        end(store, name=name)
        if number > 1:
            store.mark(name, number - 1, RevisionState.RETIRED)


def numbers(store: Store, name: str = "iris") -> list[int]:
    return [each.number for each in store.revisions(name, limit=1000)]


def test_the_newest_revisions_are_kept_with_their_rollouts(store: Store, images: Layout) -> None:
    rolled_out(store, 9)
    Pruning(store, images, Retention(revisions=3)).rows()
    assert numbers(store) == [9, 8, 7]
    assert [each.target for each in store.rollouts("iris")] == [9, 8, 7]
    assert store.rollouts("iris")[-1].source is None
    with pytest.raises(UnknownInYardError, match="revision 2 of iris is not kept any more") as caught:
        store.revision("iris", 2)
    assert "--keep-revisions" in caught.value.remedy
    with pytest.raises(UnknownInYardError, match="has no revision 10"):
        store.revision("iris", 10)
    assert store.add_revision(revision(content="next"), ADA).number == 10


def test_what_is_in_use_is_kept_however_old(store: Store, images: Layout, tmp_path: Path) -> None:
    rolled_out(store, 9)
    store.mark("iris", 1, RevisionState.KEPT)
    store.add_replica("iris-2-a", "iris", 2, engine="runc", folder=tmp_path)
    store.begin_rollout("iris", 3, ADA)
    before = store.snapshot()
    Pruning(store, images, Retention(revisions=2)).rows()
    assert numbers(store) == [9, 8, 3, 2, 1]
    assert store.snapshot() == before


def test_rollouts_back_and_forth_are_bounded_too(store: Store, images: Layout) -> None:
    rolled_out(store, 2)
    for _ in range(20):
        for target in (1, 2):
            store.begin_rollout("iris", target, ADA)
            end(store)
    Pruning(store, images, Retention(revisions=3)).rows()
    assert len(store.rollouts("iris")) == 6
    assert store.deployment("iris").active == 2


def test_a_deleted_deployment_is_forgotten_after_its_window(store: Store, images: Layout, clock: Clock) -> None:
    rolled_out(store, 2)
    store.delete("iris")
    store.forget("iris")
    pruning = Pruning(store, images, Retention())
    clock.time += 29 * DAY
    pruning.rows()
    assert numbers(store) == [2, 1]
    clock.time += 2 * DAY
    pruning.rows()
    assert numbers(store) == []
    assert store.database.all("SELECT * FROM deployments") == []
    assert store.rollouts("iris") == ()


def test_tokens_that_hold_no_more_are_removed_after_a_while(store: Store, images: Layout, clock: Clock) -> None:
    tokens = Tokens(store)
    for name, expires in (("forever", None), ("short", clock.time + 10), ("long", clock.time + 365 * DAY)):
        tokens.create(name, Scope.VIEWER, by="ada", expires=expires)
    tokens.create("revoked", Scope.VIEWER, by="ada", expires=None)
    tokens.revoke("revoked")
    pruning = Pruning(store, images, Retention())
    pruning.rows()
    assert len(tokens.all()) == 4
    clock.time += 31 * DAY
    pruning.rows()
    assert [each.name for each in tokens.all()] == ["forever", "long"]


def grow_old(layout: Layout, seconds: float) -> None:
    for digest in layout.blobs:
        os.utime(layout.blobs.path(digest), (time.time() - seconds,) * 2)


async def test_images_that_only_pruned_revisions_needed_go(store: Store, images: Layout) -> None:
    rolled_out(store, 30)
    made = {n: sample_image(images, image_name("iris", n), code=f"print({n})\n".encode()) for n in (1, 8, 30)}
    images.add(made[8], "mine:8")
    pruning = Pruning(store, images, Retention(revisions=5))
    await pruning.once()
    assert len(images.entries()) == 4, "what is young is left alone: its blobs could not be swept yet"
    grow_old(images, 2 * DAY)
    await pruning.once()
    assert {each.name for each in images.images()} == {"mine:8", image_name("iris", 30)}
    kept = {blob.digest for n in (8, 30) for blob in made[n].blobs}
    assert set(images.blobs) == kept
    await pruning.once()
    assert set(images.blobs) == kept


async def test_an_image_that_was_sent_and_not_deployed_goes_after_a_day(store: Store, images: Layout) -> None:
    made = sample_image(images, "sent:1")
    images.add(made, received_name(made.digest))
    images.remove("sent:1")
    grow_old(images, DAY / 2)
    pruning = Pruning(store, images, Retention())
    await pruning.once()
    assert [each.name for each in images.images()] == [received_name(made.digest)]
    grow_old(images, 2 * DAY)
    await pruning.once()
    assert (images.entries(), list(images.blobs)) == ([], [])


class Engines:
    """What the yard asks of its engines, noted; `well` is whether they do it."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []
        self.well = True

    async def free(self, needed: Sequence[Image]) -> bool:
        self.asked.append({image.digest for image in needed})
        return self.well


async def test_engines_let_go_at_the_start_and_when_images_were_let_go(
    store: Store, images: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled_out(store, 30)
    old = sample_image(images, image_name("iris", 1), code=b"print(1)\n")
    new = sample_image(images, image_name("iris", 30), code=b"print(30)\n")
    mine = sample_image(images, "mine:1", code=b"mine")
    engines = Engines()
    pruning = Pruning(store, images, Retention(revisions=5), engines.free)

    async def rounds(count: int) -> list[set[str]]:
        engines.asked.clear()
        for _ in range(count):
            await pruning.once()
            await pruning.engines()
        return engines.asked

    engines.well = False
    assert await rounds(2) == [{old.digest, new.digest, mine.digest}] * 2, "what failed is tried again"
    engines.well = True
    assert await rounds(3) == [{old.digest, new.digest, mine.digest}]
    grow_old(images, 2 * DAY)
    assert await rounds(3) == [{new.digest, mine.digest}]
    later = time.monotonic() + SWEEP_AGE
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert await rounds(3) == [{new.digest, mine.digest}], "what was young then is old now"


async def test_engines_let_go_though_the_state_cannot_be_written(store: Store, images: Layout) -> None:
    engines = Engines()
    pruning = Pruning(store, images, Retention(), engines.free)
    store.close()
    running = asyncio.create_task(pruning.run())
    async with asyncio.timeout(10):
        while not engines.asked:
            await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_engine_that_fails_is_told_of_and_keeps_no_other_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid() != 0:
        pytest.skip("runc needs root")
    gone = DockerEngine("unix:///nowhere/docker.sock")
    runc = RuncEngine(tmp_path / "runc", Path("/usr/sbin/runc"))
    layer = tmp_path / "runc" / "layers" / ("0" * 64)
    layer.mkdir(parents=True)
    (layer / "weights").write_bytes(b"x" * 1000)
    os.utime(layer, (time.time() - DAY,) * 2)
    caplog.set_level("INFO")
    assert not await free({"docker": gone, "runc": runc}, [])
    assert not layer.exists()
    assert "docker could not let go of images that are not needed" in caplog.text
    assert "runc let go of images that are not needed, 1000 bytes are free again" in caplog.text
    assert await free({"runc": runc}, [])
    await gone.close()


class History:
    """A deployment that lives through random events, as the yard would note them."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.newest = 0

    def do(self, event: str, number: int) -> None:
        """One event, about a revision where that is one; what cannot be now does not happen."""
        try:
            getattr(self, event)(number)
        except (UnknownInYardError, YardConflictError):
            return

    def deploy(self, _: int) -> None:
        added = self.store.add_revision(revision(content=str(self.newest)), ADA)
        assert added.number == self.newest + 1
        self.newest = added.number
        self.store.begin_rollout("iris", added.number, ADA)

    def back(self, number: int) -> None:
        self.store.begin_rollout("iris", number, ADA)

    def done(self, _: int) -> None:
        end(self.store)

    def fail(self, _: int) -> None:
        end(self.store, RolloutPhase.FAILED)

    def retire(self, number: int) -> None:
        if self.store.revision("iris", number).state is RevisionState.KEPT:
            self.store.mark("iris", number, RevisionState.RETIRED)

    def start(self, number: int) -> None:
        self.store.add_replica(f"r{number}", "iris", number, engine="runc", folder=self.folder)

    def stop(self, number: int) -> None:
        self.store.remove_replica(f"r{number}")

    def prune(self, number: int) -> None:
        kept = number % 4 + 2
        before = self.store.snapshot()
        all_before = numbers(self.store)
        Pruning(self.store, Layout(self.folder), Retention(revisions=kept)).rows()
        assert self.store.snapshot() == before
        in_use = set(before[0].revisions) if before else set()
        left = numbers(self.store)
        assert set(left) >= in_use | set(all_before[:kept])
        assert len(left) <= kept + len(in_use)


EVENTS = ("deploy", "deploy", "done", "done", "fail", "back", "retire", "retire", "start", "stop", "prune")


@given(some.lists(some.tuples(some.sampled_from(EVENTS), some.integers(1, 12)), min_size=5, max_size=60))
def test_pruning_never_changes_what_the_planner_sees(events: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "yard.db", clock=Clock())
        history = History(store, Path(folder))
        try:
            for event, number in (*events, ("prune", 1)):
                history.do(event, number)
            left = numbers(store)
            history.prune(1)
            assert numbers(store) == left, "nothing more goes at once"
        finally:
            store.close()
