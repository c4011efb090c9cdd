"""What a model bears of a flood, for models of which it is known what a refusal takes from them."""

from __future__ import annotations

import math

from berth.giving_way import LEAST, Bearing

REFUSAL_S = 14e-6


def calm(bearing: Bearing, seconds: float, busy: float, batches: int = 30) -> None:
    for _ in range(batches):
        bearing.ran(seconds, busy, 1, flooded=False)


def computed(bearing: Bearing, busy: float, rows: int = 1) -> float:
    """One batch of a model that shares its core with refusals: as many as it lets come, or half of the core."""
    seconds = busy / (1 - min(0.5, bearing.rate * REFUSAL_S))
    bearing.ran(seconds, busy, rows, flooded=True)
    return seconds


def test_a_model_that_computes_keeps_nine_tenths_of_its_core() -> None:
    bearing = Bearing()
    calm(bearing, 0.02, 0.02)
    for _ in range(50):
        computed(bearing, 0.02)
    took = [computed(bearing, 0.02) for _ in range(200)]
    assert sum(took) / len(took) < 0.02 / 0.9
    assert bearing.rate > LEAST


def test_so_does_one_that_is_flooded_before_anybody_knows_it_or_with_batches_of_another_size() -> None:
    fresh, small = Bearing(), Bearing()
    calm(small, 0.005, 0.005)
    for bearing, rows in ((fresh, 1), (small, 32)):
        for _ in range(50):
            computed(bearing, 0.02, rows)
        took = [computed(bearing, 0.02, rows) for _ in range(200)]
        assert sum(took) / len(took) < 0.02 / 0.9


def test_a_model_that_waits_for_a_device_bears_everything() -> None:
    bearing = Bearing()
    calm(bearing, 0.02, 0.0001)
    for number in range(300):
        bearing.ran(0.02 + 0.002 * (number % 3 - 1), 0.0002, 1, flooded=True)
        assert bearing.rate == math.inf


def test_one_that_waits_and_is_flooded_at_once_is_known_within_seconds() -> None:
    bearing = Bearing()
    for _ in range(300):
        bearing.ran(0.02, 0.0001, 1, flooded=True)
    assert bearing.rate == math.inf


def test_after_the_flood_nobody_is_held_back() -> None:
    bearing = Bearing()
    calm(bearing, 0.02, 0.02)
    for _ in range(100):
        computed(bearing, 0.02)
    assert bearing.rate < math.inf
    calm(bearing, 0.02, 0.02, 100)
    assert bearing.rate == math.inf
