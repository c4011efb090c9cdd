"""The yard's page: valid for a strict reader, everything labelled, nothing twice, bounded whatever replicas say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from dockyard.yard import metrics as module
from dockyard.yard import page as page_module
from dockyard.yard.exposition import read
from dockyard.yard.metrics import Metrics
from dockyard.yard.page import Page
from dockyard.yard.points import Subject
from dockyard.yard.sampler import Pages, Sampler, Sources, Target
from dockyard.yard.series import Series
from dockyard.yard.series_file import SeriesFile
from dockyard.yard.state import Freeze, Phase, Start
from tests.berth.support import predictor, serving
from tests.yard.envoy import running_envoy

A, B = Subject("iris", 1, "iris-1-a"), Subject("iris", 2, "iris-2-b")


def families(text: str) -> dict[str, Metric]:
    """The page as Prometheus' client reads it, after the rules that it does not check."""
    series, types, current = [], [], ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            current = line.split(" ")[2]
            types.append(current)
        elif not line.startswith("#"):
            series.append(line.rpartition(" ")[0])
            ends = ("", "_bucket", "_sum", "_count")
            assert re.split(r"[{ ]", line)[0] in {current + end for end in ends}, "a sample outside of its family"
    helps = [line.split(" ")[2] for line in text.splitlines() if line.startswith("# HELP ")]
    for once in (series, types, helps):
        assert [name for name, count in Counter(once).items() if count > 1] == []
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(text: str, sample: str) -> float:
    (line,) = (line for line in text.splitlines() if line.startswith(f"{sample} "))
    return float(line.rpartition(" ")[2])


def test_the_yard_s_own_counts() -> None:
    metrics = Metrics(lambda: 4096)
    metrics.reconciled(0.02)
    metrics.planned(0.001)
    metrics.stepped(Start("iris", 1))
    metrics.stepped(Freeze("iris", "iris-1-a"))
    metrics.told("replica-crashed")
    metrics.rolled_out("done")
    metrics.answered("/v1/deployments/{name}", 404)
    metrics.audited()
    targets = [Target("iris", 1, name, Phase.READY) for name in "ab"] + [Target("iris", 2, "c", Phase.STARTING)]
    text = metrics.text(Pages(targets=targets))
    families(text)
    assert value(text, "dockyard_reconcile_seconds_count") == 1
    assert value(text, 'dockyard_plan_seconds_bucket{le="0.001"}') == 1
    assert value(text, 'dockyard_steps_total{kind="freeze"}') == 1
    assert value(text, 'dockyard_events_total{kind="replica-crashed"}') == 1
    assert value(text, 'dockyard_rollouts_total{outcome="done"}') == 1
    assert value(text, 'dockyard_api_requests_total{route="/v1/deployments/{name}",status="404"}') == 1
    assert value(text, "dockyard_audit_entries_total") == 1
    assert value(text, "dockyard_store_bytes") == 4096
    assert value(text, 'dockyard_replicas{deployment="iris",revision="1",phase="ready"}') == 2
    assert value(text, 'dockyard_replicas{deployment="iris",revision="2",phase="starting"}') == 1


def test_two_yards_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.audited()
    assert value(second.text(), "dockyard_audit_entries_total") == 0


def test_a_label_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VALUES", 2)
    metrics = Metrics()
    for kind in ("a", "b", "c", "d", "a"):
        metrics.told(kind)
    text = metrics.text()
    assert value(text, 'dockyard_events_total{kind="a"}') == 2
    assert value(text, 'dockyard_events_total{kind="other"}') == 2


async def test_gateway_and_replicas_as_they_really_are(tmp_path: Path, short_path: Path) -> None:
    series = Series(SeriesFile(tmp_path / "series.db", lambda *_: None))

    async def nothing() -> str:
        return ""

    async def nobody() -> tuple[()]:
        return ()

    metrics = Metrics()
    metrics.watch(Sampler(Sources(nobody, nothing), series), series)
    for labelled in (True, False):
        with (
            serving(**predictor("Typed", MODEL_NAME="typed")) as berth,
            running_envoy(short_path, {"iris.1": Path(berth.socket_path)}, labelled=labelled) as envoy,
        ):
            assert envoy.ask("POST", "/iris.1/predict", {})[0] == 422
            page = berth.get("/metrics").body.decode()
            pages = Pages(envoy.metrics(), {A: page, B: page})
        text = metrics.text(pages)
        found = families(text)
        assert (
            value(text, 'envoy_cluster_upstream_rq_xx{deployment="iris",revision="1",envoy_response_code_class="4"}')
            == 1
        )
        assert found["envoy_cluster_upstream_rq_xx"].type == "counter"
        for subject in (A, B):
            labels = f'deployment="iris",revision="{subject.revision}",replica="{subject.replica}"'
            assert value(text, f"berth_open_connections{{{labels}}}") >= 0
        assert found["berth_request_seconds"].type == "histogram"
        assert "dockyard_series_bytes" in found
        for reason in ("invalid", "clash", "duplicate", "limit", "reserved"):
            assert value(text, f'dockyard_metrics_left_out{{reason="{reason}"}}') == 0
    series.close()


def test_what_a_hostile_replica_says_stays_among_itself() -> None:
    hostile = "\n".join(
        [
            *("# TYPE shared gauge", "shared 1"),
            *("dockyard_audit_entries_total 99", "envoy_cluster_upstream_rq_total 99"),
            *('a{replica="other",exported_replica="x"} 1', 'a{x="1",y="2"} 1', 'a{y="2",x="1"} 2'),
            *("# TYPE h histogram", "h 1", 'h_bucket{le="1"} 1'),
            *("# TYPE other_count gauge", "other_count 1", "nonsense", 'b{x="\n"} 1'),
        ]
    )
    honest = "\n".join(
        [
            *("# TYPE shared counter", "shared 1", "# TYPE other summary"),
            *("other_count 3", "other_sum 2", "# HELP fine It is\\\\ \\n fine.", "fine 1"),
        ]
    )
    text = Metrics().text(Pages(replicas={A: hostile, B: honest}))
    found = families(text)
    assert value(text, "dockyard_audit_entries_total") == 0
    labels = 'deployment="iris",revision="1",replica="iris-1-a"'
    assert f'a{{{labels},exported_replica="other",exported_exported_replica="x"}} 1' in text
    assert value(text, 'dockyard_metrics_left_out{reason="reserved"}') == 2
    assert value(text, 'dockyard_metrics_left_out{reason="duplicate"}') == 1
    assert value(text, 'dockyard_metrics_left_out{reason="clash"}') == 4  # h, shared, other_count, other_sum
    assert value(text, 'dockyard_metrics_left_out{reason="invalid"}') == 3
    assert found["fine"].documentation == "It is\\ \n fine."


def test_the_page_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(most=5)
    page.add(read("".join(f"a{number} 1\n" for number in range(9))), {})
    assert page.text().count("\n") == 5 * 3
    assert page.left_out["limit"] == 4
    assert page_module.MAX_SERIES == 100_000
