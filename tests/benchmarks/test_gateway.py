"""What the gateway's benchmark makes of its runs."""

from __future__ import annotations

import pytest

from benchmarks.deploy.gateway import Turns
from benchmarks.serving.tiny import Run


def _runs(*p50_ms: float) -> list[Run]:
    return [Run(1000, 2000, each, each * 2, each * 3, 0) for each in p50_ms]


def test_what_each_way_adds_to_the_direct_one_is_told_beside_its_runs() -> None:
    told = Turns({"direct": _runs(0.02, 0.03, 0.9), "through": _runs(0.2, 0.1, 0.14), "bare": _runs(0.11)}).told()
    assert told["added_p50_us"] == pytest.approx(110)
    assert told["for_scale_added_p50_us"] == {"bare": pytest.approx(80)}
    assert told["direct"][0]["p50_ms"] == 0.02  # type: ignore[index]


def test_a_server_without_anything_for_scale_has_none() -> None:
    assert Turns({"direct": _runs(0.02), "through": _runs(0.1)}).told()["for_scale_added_p50_us"] == {}
