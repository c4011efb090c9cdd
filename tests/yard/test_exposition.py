"""Prometheus text is read as Prometheus' own client reads it, and nonsense costs its line, nothing more."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dockyard.yard.exposition import Limits, Sample, line_of, read

NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,20}", fullmatch=True)
LABELS = st.dictionaries(
    st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,10}", fullmatch=True), st.text(max_size=20), max_size=5
)


def test_a_page_of_prometheus_client_is_read_as_its_own_parser_reads_it() -> None:
    registry = CollectorRegistry()
    Counter("a_total", "An\\ counter\nof two lines.", ["x"], registry=registry).labels('q"u\\o\nte').inc(2.5)
    Gauge("b", "", registry=registry).set(math.inf)
    Histogram("c", "Times.", registry=registry).observe(0.3)
    text = generate_latest(registry).decode()
    families = list(text_string_to_metric_families(text))
    page = read(text)
    assert page.refused == 0
    assert [tuple(sample) for sample in page.samples] == [
        (sample.name, sample.labels, sample.value) for family in families for sample in family.samples
    ]
    kinds = {name: kind for name, kind in page.kinds.items() if not name.endswith("_created")}
    assert kinds == {"a_total": "counter", "b": "gauge", "c": "histogram"}
    assert page.helps["a_total"] == "An\\ counter\nof two lines."


@given(NAMES, LABELS, st.floats())
def test_what_is_written_is_read_again(name: str, labels: dict[str, str], value: float) -> None:
    page = read(line_of(name, labels, value) + "\n")
    (sample,) = page.samples
    assert (sample.name, sample.labels) == (name, labels)
    assert sample.value == value or (math.isnan(sample.value) and math.isnan(value))


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("a 1", Sample("a", {}, 1)),
        ("  a  1.5e3  1700000000000 ", Sample("a", {}, 1500)),
        ("a\t-Inf", Sample("a", {}, -math.inf)),
        ('a{ x = "1" , y="2", } 1\r', Sample("a", {"x": "1", "y": "2"}, 1)),
        ("a{}3", Sample("a", {}, 3)),
        ('a{x="}{, \\" \\\\ \\n"} 1', Sample("a", {"x": '}{, " \\ \n'}, 1)),
        ('a{x="ä\x85\x0b"} 1', Sample("a", {"x": "ä\x85\x0b"}, 1)),
    ],
)
def test_the_forms_that_the_format_allows(line: str, sample: Sample) -> None:
    assert read(line).samples == (sample,)


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a ",
        "1a 1",
        "a b",
        "a 1_000",
        "a 0x10",
        "a 1 2 3",
        "a{x=1} 1",
        'a{x="1" 1',
        'a{x="1"y="2"} 1',
        'a{x="1",x="2"} 1',
        'a{x="\\q"} 1',
        'a{x="1"} 1 # {trace="1"} 2',
        "<html>",
        "{} 1",
        'a{x="' + "y" * 5000 + '"} 1',
        "a{" + ",".join(f'l{number}="1"' for number in range(40)) + "} 1",
    ],
)
def test_a_line_that_is_not_valid_is_counted_and_the_rest_is_read(line: str) -> None:
    page = read(f"before 1\n{line}\nafter 2\n")
    assert [sample.name for sample in page.samples] == ["before", "after"]
    assert page.refused == 1


@given(st.text(alphabet=st.sampled_from('a1{}=,"\\\n #.eE+_ÿ\x00'), max_size=200))
def test_no_text_raises(text: str) -> None:
    read(text)


def test_samples_beyond_the_bound_are_counted() -> None:
    page = read("a 1\n" * 10, Limits(samples=3))
    assert (len(page.samples), page.refused) == (3, 7)


def test_only_what_is_wanted_is_read() -> None:
    page = read('a 1\nab 2\nab{x="1"} 3\nabc x\n', wanted={"ab"})
    assert [sample.value for sample in page.samples] == [2, 3]
    assert page.refused == 0
