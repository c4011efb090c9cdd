"""The page on metrics names every series of the yard's own, every metric of the time series, and the true bounds."""

from __future__ import annotations

from pathlib import Path

from dockyard.yard import exposition, metrics, page, points, sampler, series, series_file
from dockyard.yard.exposition import read
from dockyard.yard.state import Phase, Step
from tests.docs.pages import DOCS, rows, unquoted

PAGE = DOCS / "reference" / "metrics.md"


async def nobody() -> tuple[()]:
    return ()


async def nothing() -> str:
    return ""


def test_every_series_of_the_yard_is_there_with_its_type_and_labels(tmp_path: Path) -> None:
    counted = metrics.Metrics()
    kept = series.Series(series_file.SeriesFile(tmp_path / "series.db", lambda *_: None))
    counted.watch(sampler.Sampler(sampler.Sources(nobody, nothing), kept), kept)
    counted.told("x")
    counted.rolled_out("x")
    counted.answered("x", 200)
    counted._steps.labels("x").inc()
    exposed = read(counted.text(sampler.Pages(targets=[sampler.Target("x", 1, "x", Phase.READY)])))
    labels = {
        name: sorted({label for sample in exposed.samples if sample.name == name for label in sample.labels})
        for name in exposed.kinds
    }
    documented = {unquoted(name): (kind, named) for name, kind, named, _ in rows(PAGE, "The yard")}
    assert {name: kind for name, (kind, _) in documented.items()} == exposed.kinds
    for name, (_, named) in documented.items():
        assert sorted(unquoted(each) for each in named.split(", ") if each) == labels[name], name


def test_every_step_is_named() -> None:
    (text,) = (row[3] for row in rows(PAGE, "The yard") if row[0] == "`dockyard_steps_total`")
    assert [step for step in Step.__args__ if f"`{step.__name__.lower()}`" not in text] == []


def test_every_metric_of_the_time_series_is_there() -> None:
    assert [unquoted(row[0]) for row in rows(PAGE, "The time series")] == [metric.value for metric in points.Metric]


def test_the_bounds_are_those_of_the_code() -> None:
    text = PAGE.read_text().replace("\n", " ")
    for bound in (
        f"{exposition.REPLICA.bytes >> 20} MiB and {exposition.REPLICA.samples:,} series of a replica",
        f"{exposition.GATEWAY.samples:,} series of the gateway",
        f"{page.MAX_SERIES:,} series on the page",
        f"{exposition.REPLICA.line:,} characters of a line",
        f"{exposition.REPLICA.labels} labels of a series",
        f"{metrics.MAX_VALUES} values of a label",
        f"{series_file.MAX_BYTES >> 20} MiB, then the oldest go; {series.MAX_SUBJECTS:,} subjects",
        f"`{series_file.DAMAGED}`",
    ):
        assert bound in text, bound
