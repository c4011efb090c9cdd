"""What the benchmark of rollouts sees of the time that its host gave to others."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.deploy import steal


def test_the_time_is_the_eighth_of_all_processors_line() -> None:
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    for _ in range(5):
        before = steal.stolen_s()
        line = Path("/proc/stat").read_text().splitlines()[0].split()
        after = steal.stolen_s()
        assert line[0] == "cpu"
        assert before <= int(line[1 + names.index("steal")]) / 100 <= after


def test_a_watch_looks_all_the_time_and_no_longer() -> None:
    began = time.time()
    with steal.watching() as seen:
        time.sleep(0.5)
    ended, count = time.time(), len(seen.samples)
    assert count >= 5
    assert all(began <= when <= ended for when, _ in seen.samples)
    time.sleep(3 * steal.EVERY_S)
    assert len(seen.samples) == count


def test_what_was_stolen_may_have_begun_before_a_look_and_what_waited_is_caught_up_with_after_it() -> None:
    samples = [(10.00, 5.0), (10.02, 5.0), (10.04, 5.03), (10.06, 5.03), (10.08, 5.04)]
    found = [(round(begin, 6), round(end, 6)) for begin, end in steal.stolen(samples)]
    assert found == [(9.99, 10.07), (10.05, 10.09)]


def test_nothing_is_stolen_where_the_figure_stands_still() -> None:
    assert list(steal.stolen([(10.0, 5.0), (10.02, 5.0)])) == []
    assert list(steal.stolen([])) == []
