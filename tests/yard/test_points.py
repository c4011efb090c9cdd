"""Amounts add up: over time, over replicas; what is not known stays unknown, and counters may begin anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.yard.points import Metric, Usage, of_requests, of_usage, over_time, together, unknown, value
from dockyard.yard.readings import Reading

SECONDS = st.floats(0.5, 10)


def reading(requests: float, *, took: float = 0.0, **more: float) -> Reading:
    return Reading(requests, seconds=took, buckets={0.01: requests, math.inf: requests}, **more)


def test_counts_become_rates() -> None:
    row = of_requests(reading(10, errors=1), reading(30, errors=5), 2.0)
    assert value(row, 2.0, Metric.REQUESTS) == 10
    assert value(row, 2.0, Metric.ERRORS) == 2
    assert value(row, 2.0, Metric.P50) == pytest.approx(0.005)
    assert value(row, 2.0, Metric.CPU) is None


def test_a_server_that_began_anew_has_counted_what_it_says_now() -> None:
    row = of_requests(reading(1000, errors=20, took=50), reading(4, errors=1, took=0.02), 2.0)
    assert value(row, 2.0, Metric.REQUESTS) == 2
    assert value(row, 2.0, Metric.ERRORS) == 0.5
    assert value(row, 2.0, Metric.IN_FLIGHT) == pytest.approx(0.01)
    used = of_usage(Usage(500, 1e6), Usage(1, 1e6), 2.0)
    assert value(used, 2.0, Metric.CPU) == 0.5


def test_requests_in_flight_are_their_average_over_time_when_requests_are_short() -> None:
    row = of_requests(reading(0), reading(100, took=3.0), 2.0)  # nobody was there at either end
    assert value(row, 2.0, Metric.IN_FLIGHT) == 1.5


def test_requests_in_flight_are_what_is_seen_when_requests_are_long() -> None:
    row = of_requests(reading(0, in_flight=4), reading(1, took=60.0, in_flight=3), 2.0)
    assert value(row, 2.0, Metric.IN_FLIGHT) == 3.5
    row = of_requests(reading(0, in_flight=4), reading(0, in_flight=4), 2.0)
    assert value(row, 2.0, Metric.IN_FLIGHT) == 4


def test_the_rows_of_replicas_are_their_sum_and_the_unknown_adds_nothing() -> None:
    rows = [of_requests(reading(0), reading(6), 2.0), of_usage(Usage(0, 100), Usage(1, 100), 2.0), unknown()]
    row = together(rows)
    assert [value(row, 2.0, metric) for metric in (Metric.REQUESTS, Metric.CPU, Metric.MEMORY)] == [3, 0.5, 100]
    assert value(row, 2.0, Metric.READY) is None
    assert np.isnan(together([unknown(), unknown()])).all()


@given(st.lists(st.tuples(SECONDS, st.integers(0, 1000)), min_size=1, max_size=20))
def test_over_time_a_rate_is_the_mean_by_seconds(parts: list[tuple[float, int]]) -> None:
    rows = np.stack([of_requests(reading(0), reading(count), seconds) for seconds, count in parts])
    seconds = np.array([part[0] for part in parts])
    row = over_time(rows, seconds)
    expected = sum(count for _, count in parts) / seconds.sum()
    assert value(row, float(seconds.sum()), Metric.REQUESTS) == pytest.approx(expected)


@given(st.lists(st.booleans(), min_size=2, max_size=20).filter(any), st.integers(1, 19))
def test_adding_up_in_two_steps_is_adding_up_at_once(known: list[bool], cut: int) -> None:
    rows = np.stack([of_requests(reading(0), reading(8), 2.0) if each else unknown() for each in known])
    seconds = np.full(len(known), 2.0)
    halves = [(rows[:cut], seconds[:cut]), (rows[cut:], seconds[cut:])]
    parts = [(over_time(*half), half[1].sum()) for half in halves if len(half[0])]
    twice = over_time(np.stack([part[0] for part in parts]), np.array([part[1] for part in parts]))
    total = float(seconds.sum())
    once = over_time(rows, seconds)
    assert value(twice, total, Metric.REQUESTS) == pytest.approx(value(once, total, Metric.REQUESTS))


def test_percentiles_over_time_are_those_of_all_requests_not_their_mean() -> None:
    fast = Reading(990, buckets={0.005: 0.0, 0.01: 990.0, 1.0: 990.0})
    slow = Reading(10, buckets={0.5: 0.0, 1.0: 10.0})
    row = over_time(np.stack([of_requests(Reading(), each, 2.0) for each in (fast, slow)]), np.array([2.0, 2.0]))
    p50, p90, p99 = (value(row, 4.0, metric) for metric in (Metric.P50, Metric.P90, Metric.P99))
    assert p50 == pytest.approx(0.005 + 0.005 * 500 / 990)
    assert p90 == pytest.approx(0.005 + 0.005 * 900 / 990)
    assert p99 == pytest.approx(0.01)
