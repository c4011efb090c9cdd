"""Histograms of different bounds are brought to one, and their quantiles are near those of the values counted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.metrics import SECONDS
from dockyard.yard.latency import BOUNDS, quantile, since, spread

ENVOY = tuple(
    each / 1e3
    for each in (0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000)
)


def cumulative(values: list[float], bounds: tuple[float, ...]) -> dict[float, float]:
    return {bound: sum(value <= bound for value in values) for bound in (*bounds, math.inf)}


def test_the_bounds_of_berth_and_of_envoy_are_among_ours() -> None:
    assert set(SECONDS) | set(ENVOY) <= set(BOUNDS)


@given(st.lists(st.floats(0.00005, 500), max_size=50), st.sampled_from([SECONDS, ENVOY, (0.7, 3.0)]))
def test_nobody_is_lost_when_bounds_differ(values: list[float], bounds: tuple[float, ...]) -> None:
    assert sum(spread(cumulative(values, bounds))) == len(values)


@given(st.lists(st.floats(0.0001, 9), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_value_that_it_stands_for(values: list[float], share: float) -> None:
    found = quantile(spread(cumulative(values, SECONDS)), share)
    exact = sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]
    upper = min(bound for bound in BOUNDS if bound >= exact)
    lower = max((bound for bound in (0.0, *BOUNDS) if bound < exact), default=0.0)
    assert found is not None
    assert lower <= found <= upper * 1.0000001


def test_coarse_buckets_count_as_evenly_spread() -> None:
    counts = spread(cumulative([0.004] * 100, ENVOY))  # Envoy has nothing between 1 and 5 ms
    assert counts[BOUNDS.index(0.0025)] == 38
    assert counts[BOUNDS.index(0.005)] == 62
    assert quantile(counts, 0.5) == pytest.approx(0.003, rel=0.02)


def test_without_requests_there_is_no_latency() -> None:
    assert quantile(spread({}), 0.5) is None


def test_what_took_longer_than_the_last_bound_counts_as_that() -> None:
    assert quantile(spread({math.inf: 3.0}), 0.99) == BOUNDS[-1]


def test_the_difference_of_two_readings_is_what_came_between() -> None:
    before, now = cumulative([0.001], SECONDS), cumulative([0.001, 0.2, 0.2], SECONDS)
    assert sum(spread(since(before, now))) == 2


def test_a_count_that_fell_means_that_the_server_began_anew() -> None:
    before, now = cumulative([0.001] * 9, SECONDS), cumulative([0.2], SECONDS)
    assert since(before, now) == now
    assert since(before, {}) == {}
