"""The loop that looks, with a real berth and a real Envoy, and with sources that fail in every way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dockyard.yard import sampler as module
from dockyard.yard.points import Metric, Subject
from dockyard.yard.sampler import Pages, Sampler, Sources, Target
from dockyard.yard.scrape import Page
from dockyard.yard.series import Series
from dockyard.yard.series_file import SeriesFile
from dockyard.yard.state import Phase
from tests.berth.support import Berth, predictor, serving
from tests.yard.envoy import running_envoy

GOOD, BAD = 400, 100  # enough to take a tick (10 ms) of processor time
IRIS = Subject("iris")


async def nobody() -> Sequence[Target]:
    return ()


async def silent() -> str:
    return ""


@pytest.fixture
def series(tmp_path: Path) -> Iterator[Series]:
    found = Series(SeriesFile(tmp_path / "series.db", lambda *_: None))
    yield found
    found.close()


def sampler(series: Series, replicas: object = nobody, gateway: object = silent) -> Sampler:
    return Sampler(Sources(replicas, gateway), series)  # type: ignore[arg-type]


def target(berth: Berth, phase: Phase = Phase.READY) -> Target:
    return Target("iris", 3, "iris-3-a", phase, Page(Path(berth.socket_path)), berth.process.pid)


def cluster(requests: int, revision: int = 3) -> str:
    labels = f'deployment="iris",revision="{revision}"'
    return (
        f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="2",{labels}}} {requests}\n'
        f"envoy_cluster_upstream_rq_active{{{labels}}} 2\n"
    )


async def test_requests_through_a_real_gateway_to_a_real_replica_are_seen_at_every_level(
    series: Series, short_path: Path
) -> None:
    with (
        serving(**predictor("Typed", MODEL_NAME="typed")) as berth,
        running_envoy(short_path, {"iris.3": Path(berth.socket_path), "iris.2": short_path / "gone.sock"}) as envoy,
    ):

        async def replicas() -> Sequence[Target]:
            return [target(berth), Target("iris", 3, "iris-3-b", Phase.FROZEN, Page(short_path / "gone.sock"))]

        async def gateway() -> str:
            return await asyncio.to_thread(envoy.metrics)

        looking = sampler(series, replicas, gateway)
        await looking.tick()
        for _ in range(GOOD):
            assert envoy.ask("POST", "/iris.3/predict", {})[0] == 422
        for _ in range(BAD):
            assert envoy.ask("POST", "/iris.2/predict", {})[0] == 503
        await asyncio.sleep(1.2)  # until Envoy has put its histograms together
        await looking.tick()
        latest, ticks = series.latest(), looking.counts
    assert ticks.unanswered == 0
    new, old, replica = Subject("iris", 3), Subject("iris", 2), Subject("iris", 3, "iris-3-a")
    requests = {subject: latest[subject][Metric.REQUESTS] for subject in (IRIS, new, replica)}
    assert requests[new] == pytest.approx(requests[replica], rel=0.01)
    assert requests[IRIS] == pytest.approx((requests[new] or 0) * (GOOD + BAD) / GOOD, rel=0.01)
    assert latest[new][Metric.ERRORS] == 0
    assert latest[old][Metric.ERRORS] == pytest.approx((requests[new] or 0) * BAD / GOOD, rel=0.01)
    for subject in (IRIS, new, replica):
        assert (latest[subject][Metric.CPU] or 0) > 0
        assert (latest[subject][Metric.MEMORY] or 0) > 10 << 20
        assert latest[subject][Metric.READY] == 1
    assert 0 < (latest[new][Metric.P50] or 0) <= (latest[new][Metric.P99] or 0) < 5
    assert latest[Subject("iris", 3, "iris-3-b")][Metric.READY] == 0


async def test_a_replica_that_sleeps_is_not_woken(series: Series, short_path: Path) -> None:
    asked = 0

    async def one(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    listening = await asyncio.start_unix_server(one, str(short_path / "s"))
    phases = [phase for phase in Phase if phase not in {Phase.READY, Phase.DRAINING}]

    async def replicas() -> Sequence[Target]:
        return [Target("iris", 1, phase.value, phase, Page(short_path / "s")) for phase in phases]

    async with listening:
        await sampler(series, replicas).tick()
        await asyncio.sleep(0.05)
    assert asked == 0


async def looks(series: Series, *gateway_says: str) -> None:
    """A look at one ready replica for each of these pages of the gateway."""
    texts = iter(gateway_says)

    async def replicas() -> Sequence[Target]:
        return [Target("iris", 3, "a", Phase.READY)]

    async def gateway() -> str:
        return next(texts)

    looking = sampler(series, replicas, gateway)
    for _ in gateway_says:
        await looking.tick()


async def test_a_revision_s_first_requests_are_seen(series: Series) -> None:
    await looks(series, "# nothing yet\n", cluster(10))
    assert (series.latest()[IRIS][Metric.REQUESTS] or 0) > 0


async def test_what_a_pool_served_counts_for_its_deployment_and_for_no_revision(series: Series) -> None:
    await looks(series, cluster(10), cluster(10) + cluster(8).replace('"3"', '"pool"'))
    latest = series.latest()
    assert (latest[IRIS][Metric.REQUESTS] or 0) > 0
    assert latest[Subject("iris", 3)][Metric.REQUESTS] == 0
    assert latest[IRIS][Metric.READY] == 1


async def test_a_look_that_failed_counts_with_the_next_one(tmp_path: Path) -> None:
    now = 100.0
    texts: list[str] = [cluster(0), "", cluster(40)]
    series = Series(SeriesFile(tmp_path / "series.db", lambda *_: None))

    async def gateway() -> str:
        return texts.pop(0)

    looking = Sampler(Sources(nobody, gateway), series, clock=lambda: now, moment=lambda: now)
    await looking.tick()
    now += 2
    await looking.tick()
    assert series.latest() == {}
    now += 2
    await looking.tick()
    assert series.latest()[IRIS][Metric.REQUESTS] == 10  # 40 in 4 seconds
    assert series.average(IRIS, Metric.IN_FLIGHT, now, 60) == 2
    series.close()


async def test_a_gateway_that_fails_or_hangs_leaves_the_replicas(
    series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE", 0.1)

    async def replicas() -> Sequence[Target]:
        return [Target("iris", 3, "a", Phase.READY)]

    async def broken() -> str:
        raise RuntimeError("no gateway")

    async def hanging() -> str:
        await asyncio.sleep(60)
        return ""

    for gateway in (broken, hanging):
        looking = sampler(series, replicas, gateway)
        await looking.tick()
        await looking.tick()
        assert looking.counts.unanswered == 2
        assert series.latest()[IRIS][Metric.READY] == 1
        assert series.latest()[IRIS][Metric.REQUESTS] is None


async def test_the_loop_goes_on_after_a_failure_and_skips_what_it_is_too_late_for(
    series: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.05)
    calls: list[float] = []
    running = 0

    async def replicas() -> Sequence[Target]:
        nonlocal running
        assert running == 0, "two ticks at once"
        running += 1
        calls.append(time.monotonic())
        try:
            if len(calls) == 1:
                raise RuntimeError("the list is not there")
            if len(calls) == 2:
                await asyncio.sleep(0.28)
        finally:
            running -= 1
        return ()

    looking = sampler(series, replicas)
    task = asyncio.ensure_future(looking.run())
    while len(calls) < 4:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert looking.counts.failed == 1
    assert looking.counts.skipped >= 4


async def test_a_disk_that_refuses_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "series.db").mkdir()
    now = 100.0
    count = 0
    series = Series(SeriesFile(tmp_path / "series.db", lambda *_: None))

    async def gateway() -> str:
        nonlocal count
        count += 4
        return cluster(count)

    looking = Sampler(Sources(nobody, gateway), series, clock=lambda: now, moment=lambda: now)
    for _ in range(100):
        await looking.tick()
        now += 2
    assert looking.counts.failed == 0
    assert series.lost > 0
    assert series.latest()[IRIS][Metric.REQUESTS] == 2


async def test_the_pages_of_the_last_look_are_kept(series: Series) -> None:
    with serving(**predictor("Typed")) as berth:

        async def replicas() -> Sequence[Target]:
            return [target(berth)]

        looking = sampler(series, replicas)
        assert looking.pages == Pages()
        await looking.tick()
    assert "berth_info" in looking.pages.replicas[Subject("iris", 3, "iris-3-a")]
