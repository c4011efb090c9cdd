"""The page on metrics names every series of the yard's own, every metric of the time series, and the true bounds;
Prometheus can read the yard as it says."""

from __future__ import annotations

import shlex
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import click
import pytest

from dockyard.cli import commands
from dockyard.spec.status import LoadStep
from dockyard.yard import exposition, measuring, metrics, page, points, sampler, series, series_file
from dockyard.yard.api import serving
from dockyard.yard.api_listen import tcp_listener
from dockyard.yard.exposition import read
from dockyard.yard.state import Phase, Step
from tests.docs.pages import DOCS, blocks, rows, unquoted
from tests.support.certificates import loopback_certificate
from tests.support.memory_yard import MemoryYard

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


def test_every_field_of_the_load_over_time_is_there_and_its_bounds_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    assert [name for name in (*LoadStep.__struct_fields__, "step_s", "steps") if f"`{name}`" not in text] == []
    assert f"10 to {series.KEPT_S}." in text
    assert f"at most {measuring.MOST_STEPS} steps" in text
    assert f"at most {measuring.MOST_POINTS:,}." in text


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


def block(mark: str) -> str:
    (found,) = (one.text for one in blocks(PAGE) if one.mark == f"for prometheus: {mark}")
    return found


def parsed(text: str) -> dict[str, Any]:
    """The parameters of a `dockyard` command, if there is such a one with these options."""
    _, verb, *words = shlex.split(text.partition(">")[0])
    command = commands.get_command(click.Context(commands), verb)
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words.pop(0))
    assert command is not None
    return command.make_context(verb, words).params


async def test_prometheus_reads_the_page_as_its_configuration_says(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="it comes with schemathesis")
    (job,) = yaml.safe_load(block("prometheus.yml"))["scrape_configs"]
    certificate = loopback_certificate(tmp_path)
    (tmp_path / "dockyard.token").write_text(f"token-{parsed(block('the token'))['scope']}\n")
    up = parsed(
        block("the yard")
        .replace("0.0.0.0:7443", "127.0.0.1:0")
        .replace("/etc/dockyard/tls.pem", str(certificate.file))
        .replace("/etc/dockyard/tls.key", str(certificate.key))
    )
    ours = {"/etc/prometheus/dockyard.token": tmp_path / "dockyard.token"}
    ours["/etc/prometheus/dockyard-ca.pem"] = certificate.file
    authorization, trusted = job["authorization"], ours[job["tls_config"]["ca_file"]]
    secret = ours[authorization["credentials_file"]].read_text().strip()  # as Prometheus does
    headers = {"Authorization": f"{authorization['type']} {secret}"}
    yard = MemoryYard()
    async with (
        serving(yard, [tcp_listener(up["listen"], up["tls_cert"], up["tls_key"])]) as (url,),
        aiohttp.ClientSession() as session,
    ):
        page = f"{job['scheme']}://{url.partition('://')[2]}{job['metrics_path']}"
        context = ssl.create_default_context(cafile=str(trusted))
        async with session.get(page, headers=headers, ssl=context) as answer:
            assert (answer.status, await answer.read()) == (200, await yard.metrics())
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        async with session.get(page, ssl=context) as answer:
            assert answer.status == 401
    assert [target.rpartition(":")[2] for target in job["static_configs"][0]["targets"]] == ["7443"]
