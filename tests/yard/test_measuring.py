"""The load over time, out of a real store and a real time series, over the real API to what `dockyard top` prints."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from click.testing import CliRunner

from dockyard.cli import commands
from dockyard.errors import UnknownInYardError
from dockyard.gateway.base import Gateway
from dockyard.oci.layout import Layout
from dockyard.spec.status import LoadHistory
from dockyard.yard.api import serving
from dockyard.yard.fleet import Fleet
from dockyard.yard.host import Host
from dockyard.yard.looking import Looking
from dockyard.yard.measuring import MOST_POINTS, MOST_STEPS, STEPS, Measuring, span_of
from dockyard.yard.parts import Parts
from dockyard.yard.points import Row, Subject, add_ready, of_requests, of_usage, together
from dockyard.yard.points import Usage as Used
from dockyard.yard.readings import Reading
from dockyard.yard.series import KEPT_S, Tick
from dockyard.yard.store import Store
from tests.support.memory_yard import MemoryYard, on_unix
from tests.yard.conftest import ADA, Clock, revision

NOW = 1_800_000_000.0  # a multiple of every step


def row(requests: float, errors: float, seconds: float) -> Row:
    """A replica that answers so many requests a second in 10 ms, with half a processor and 64 MiB."""
    count = requests * seconds
    now = Reading(count, errors * seconds, buckets={0.01: count, math.inf: count})
    used = of_usage(Used(0, 64 << 20), Used(seconds / 2, 64 << 20), seconds)
    made = together([of_requests(Reading(), now, seconds), used])
    add_ready(made, 1, seconds)
    return made


class Envoy:
    """A gateway that nobody asks here."""

    async def metrics(self) -> str:
        return ""


@pytest.fixture
def looking(store: Store, path: Path, clock: Clock) -> Iterator[Looking]:
    host = Host({}, "", Layout.create(path.parent / "images"), path.parent, 1 << 32)
    found = Looking(path.parent, store, Fleet(host, store, lambda: None), cast(Gateway, Envoy()), clock)
    yield found
    found.close()


@pytest.fixture
def measuring(store: Store, looking: Looking) -> Measuring:
    store.add_revision(revision(), ADA)
    return Measuring(cast(Parts, SimpleNamespace(store=store, looking=looking)))


def look(looking: Looking, clock: Clock, minutes: int, requests: float, errors: float = 0.0) -> None:
    """So many minutes of looks, one every two seconds."""
    for _ in range(minutes * 30):
        clock.time += 2
        looking.series.record(Tick(clock.time, clock.time, 2.0, {Subject("iris"): row(requests, errors, 2.0)}))


def history(measuring: Measuring, since_s: int, step_s: int = 0) -> LoadHistory:
    return asyncio.run(measuring.load_history("iris", since_s, step_s))


def test_an_evening_s_load_is_told_in_steps_with_gaps_where_nobody_looked(
    measuring: Measuring, looking: Looking, clock: Clock
) -> None:
    look(looking, clock, 60, 10.0)
    clock.time += 3600  # the yard was away
    look(looking, clock, 60, 40.0, 2.0)
    told = history(measuring, 4 * 3600)
    assert (told.deployment, told.step_s, len(told.steps)) == ("iris", 300, 48)
    assert [step.at for step in told.steps] == [clock.time - 4 * 3600 + 300 * number for number in range(48)]
    rates = [step.requests_per_second for step in told.steps]
    assert rates == [None] * 12 + [pytest.approx(10)] * 12 + [None] * 12 + [pytest.approx(40)] * 12
    last = told.steps[-1]
    assert last.errors_per_second == pytest.approx(2)
    assert 0 < (last.p50_ms or 0) < (last.p99_ms or 0) <= 10
    assert (last.ready, last.cpus, last.memory) == (pytest.approx(1), pytest.approx(0.5), pytest.approx(64 << 20))


def test_the_step_that_runs_is_there_too(measuring: Measuring, looking: Looking, clock: Clock) -> None:
    look(looking, clock, 1, 10.0)
    clock.time += 4
    looking.series.record(Tick(clock.time, clock.time, 4.0, {Subject("iris"): row(70.0, 0.0, 4.0)}))
    told = history(measuring, 600, 60)
    assert [step.requests_per_second for step in told.steps[-2:]] == [pytest.approx(10), pytest.approx(70)]
    assert told.steps[-1].at == NOW + 60


def test_every_look_of_the_last_hour_can_be_had(measuring: Measuring, looking: Looking, clock: Clock) -> None:
    look(looking, clock, 61, 10.0)
    told = history(measuring, 3600, 2)
    assert (told.step_s, len(told.steps)) == (2, MOST_POINTS)
    assert {step.requests_per_second is None for step in told.steps} == {False}


def test_nobody_s_load_is_an_error_and_a_quiet_one_s_is_unknown(measuring: Measuring) -> None:
    assert {step.requests_per_second for step in history(measuring, 60).steps} == {None}
    with pytest.raises(UnknownInYardError):
        asyncio.run(measuring.load_history("rose", 60, 0))


@pytest.mark.parametrize("since_s", [10, 59, 60, 3599, 3600, 3601, 21_600, KEPT_S])
@pytest.mark.parametrize("step_s", [0, 1, 2, 7, 59, 60, 90, 3600, KEPT_S])
def test_the_number_of_steps_is_bounded_and_nothing_older_than_what_is_kept_is_asked(since_s: int, step_s: int) -> None:
    now = NOW + 33.5
    since, until, step = span_of(now, since_s, step_s)
    count = (until - since) / step
    assert 1 <= count == int(count) <= (MOST_POINTS if step_s else MOST_STEPS)
    assert now <= until < now + step
    assert until - since <= KEPT_S
    assert step_s in {0, step} or step in {STEPS[0], 60}


async def test_top_prints_what_the_series_kept(
    measuring: Measuring, looking: Looking, clock: Clock, short_path: Path
) -> None:
    class Yard(MemoryYard):
        """The real measuring behind the real API."""

        async def load_history(self, name: str, since_s: int, step_s: int) -> LoadHistory:
            return await measuring.load_history(name, since_s, step_s)

    def top(*words: str) -> str:
        variables = {"DOCKYARD_YARD": f"unix://{short_path / 'api.sock'}", "COLUMNS": "160"}
        result = CliRunner(env=variables).invoke(commands, ["top", "iris", *words])
        assert result.exit_code == 0, result.output
        return result.stdout

    look(looking, clock, 60, 40.0, 2.0)
    async with serving(Yard(), [on_unix(short_path / "api.sock")]):
        shown = await asyncio.to_thread(top, "--since", "2h", "--step", "20m")
        (told,) = json.loads(await asyncio.to_thread(top, "--since", "2h", "--step", "20m", "--json"))
    assert [step["requests_per_second"] for step in told["steps"]] == [None] * 3 + [pytest.approx(40)] * 3
    rows = [line.split()[2:] for line in shown.splitlines() if line.startswith("20")]
    assert [row[:2] for row in rows] == [["40.0", "2.0"]] * 3
    assert rows[0][-4:] == ["1.0", "0.50", "67.1", "MB"]
