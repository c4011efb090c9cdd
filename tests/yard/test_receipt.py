"""A receipt's figures are differences of what the gateway counted, of a real one and of one that began anew."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dockyard.yard.exposition import Exposition
from dockyard.yard.receipt import Figures, receipt
from dockyard.yard.sampler import gateway_figures
from tests.berth.support import predictor, serving
from tests.yard.envoy import running_envoy


def page(**revisions: tuple[int, int, int]) -> Exposition:
    """Revision -> requests that went well in at most 5 ms, failures that took at most 50 ms, requests in flight."""
    lines = []
    for name, (good, bad, active) in revisions.items():
        labels = f'deployment="iris",revision="{name.removeprefix("r")}"'
        for status, count in (("2", good), ("5", bad)):
            lines.append(f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="{status}",{labels}}} {count}')
        for bound, count in (("1", 0), ("5", good), ("25", good), ("50", good + bad), ("+Inf", good + bad)):
            lines.append(f'envoy_cluster_upstream_rq_time_bucket{{le="{bound}",{labels}}} {count}')
        lines.append(f"envoy_cluster_upstream_rq_active{{{labels}}} {active}")
    return gateway_figures("\n".join(lines))


def test_old_and_new_during_a_rollout_and_the_old_one_before_it() -> None:
    found = receipt(
        "iris",
        *(1, 2),
        start=page(r1=(1000, 0, 4)),
        end=page(r1=(1500, 10, 0), r2=(300, 0, 2)),
        earlier=page(r1=(900, 0, 4)),
    )
    assert found.before is not None
    assert found.old is not None
    assert (found.before.requests, found.before.errors) == (100, 0)
    assert (found.old.requests, found.old.errors, found.old.in_flight) == (510, 10, 0)
    assert (found.new.requests, found.new.errors, found.new.in_flight) == (300, 0, 2)
    assert found.new.quantile(0.5) == pytest.approx(0.003, abs=0.0005)
    assert found.old.quantile(0.99) == pytest.approx(0.0377, abs=0.01)
    assert found.old.whole


def test_what_both_revisions_served_as_one_is_told_apart() -> None:
    found = receipt("iris", 1, 2, page(r1=(9, 0, 0)), page(r1=(10, 0, 0), pool=(50, 2, 1), r2=(5, 0, 0)))
    assert (found.old and found.old.requests, found.new.requests) == (1, 5)
    assert (found.shared.requests, found.shared.errors, found.shared.in_flight) == (52, 2, 1)
    both = found.new.joined(found.shared)
    assert (both.requests, both.errors) == (57, 2)
    assert both.quantile(0.5) == pytest.approx(0.003, abs=0.0005)
    assert (both.quantile(0.99) or 0) > 0.025, "the slow ones are those of the pool"


def test_a_pool_without_labels_is_known_by_its_cluster_s_name() -> None:
    counted = 'envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="iris_pool"} 7'
    assert receipt("iris", 1, 2, page(), gateway_figures(counted)).shared.requests == 7


def test_without_an_earlier_page_before_is_all_that_the_gateway_remembers() -> None:
    found = receipt("iris", 1, 2, page(r1=(1000, 0, 4)), page(r1=(1500, 0, 0)))
    assert found.before is not None
    assert found.before.requests == 1000


def test_a_first_rollout_has_nothing_old() -> None:
    found = receipt("iris", None, 1, page(), page(r1=(5, 0, 0)))
    assert (found.before, found.old) == (None, None)
    assert found.new.requests == 5


def test_a_revision_without_requests_has_figures_too() -> None:
    assert receipt("iris", 1, 2, page(), page()).new == Figures()


def test_a_gateway_that_began_anew_is_told() -> None:
    found = receipt("iris", 1, 2, page(r1=(1000, 0, 4)), page(r1=(20, 0, 1), r2=(3, 0, 0)))
    assert found.old is not None
    assert (found.old.requests, found.old.whole) == (20, False)
    assert found.new.whole


def test_a_real_gateway_s_pages_give_the_figures(short_path: Path) -> None:
    with (
        serving(**predictor("Typed")) as berth,
        running_envoy(short_path, {"iris.1": Path(berth.socket_path), "iris.2": Path(berth.socket_path)}) as envoy,
    ):

        def ask(cluster: str, times: int) -> None:
            for _ in range(times):
                assert envoy.ask("POST", f"/{cluster}/predict", {})[0] == 422

        ask("iris.1", 3)
        time.sleep(1.2)
        start = gateway_figures(envoy.metrics())
        ask("iris.1", 4)
        ask("iris.2", 5)
        time.sleep(1.2)
        found = receipt("iris", 1, 2, start, gateway_figures(envoy.metrics()))
    assert found.before is not None
    assert found.old is not None
    assert (found.before.requests, found.old.requests, found.new.requests) == (3, 4, 5)
    assert (found.old.errors, found.new.errors) == (0, 0)
    assert 0 < (found.new.quantile(0.5) or 0) <= (found.new.quantile(0.99) or 0) < 10
