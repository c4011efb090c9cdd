"""Scenarios of benchmarks/serving/robustness.py, a few rounds each: counts, not times."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.serving import faults, overload

pytestmark = pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset of util-linux")


def test_a_stop_under_load_loses_no_request() -> None:
    figures = faults.sigterm(3)
    assert (figures["lost"], figures["wrong"], figures["exit_codes"]) == (0, 0, {0: 3}), figures
    assert figures["answered"] > 100


def test_killed_workers_under_load_lose_no_request_and_answer_nothing_wrong() -> None:
    figures = faults.sigkill(3)
    assert (figures["lost"], figures["wrong"]) == (0, 0), figures
    assert figures["answered"] > 50


def test_one_bad_shape_among_48_fails_alone() -> None:
    figures = faults.bad_item(2)
    assert figures["good"] == {200: 480}
    assert figures["bad"] == {422: 10}


def test_two_thousand_connections_are_answered_or_refused_and_none_is_reset() -> None:
    figures = overload.overload(1)
    for found in (figures["thread"], figures["worker"]):
        assert found["alive"]
        for run in (found["patient"], found["impatient"]):
            assert run["resets"] == 0
            assert set(run["statuses"]) <= {200, 503, 504}
            assert run["statuses"][200] > 0
