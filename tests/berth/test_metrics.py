"""What /metrics says: its form, Triton's meanings, and that nothing is left out, however a request was answered."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.berth.support import Berth, predictor, serving

DEADLINE_S = 15.0


class Page:
    """The samples of /metrics; `value` is the sum of those with these labels.

    The parser gives counters that do not end in `_total`, as Triton's do not, that ending.
    """

    def __init__(self, server: Berth) -> None:
        answer = server.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        self.text = answer.body.decode()
        self.families = list(text_string_to_metric_families(self.text))

    def value(self, name: str, **labels: str) -> float:
        found = [
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name in (name, f"{name}_total") and labels.items() <= sample.labels.items()
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)


def wait_for(server: Berth, name: str, value: float, **labels: str) -> Page:
    """The page, once a sample has this value."""
    deadline = time.monotonic() + DEADLINE_S
    while (page := Page(server)).value(name, **labels) != value:
        assert time.monotonic() < deadline, f"{name} is {page.value(name, **labels)}, not {value}"
        time.sleep(0.02)
    return page


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Berth]:
    """A model in the server, one in workers, one that yields, one with a cache."""
    models = [
        {"name": "double", "version": "3", "format": "onnx", "weights": str(weights / "double.onnx")},
        {"name": "apart", "predictor": "models:RaisesInPredict", "workers": 1},
        {"name": "tokens", "predictor": "models_streams:Tokens"},
        {"name": 'od"d\\\n', "predictor": "models:Batched", "cache_bytes": 100_000},
    ]
    path = tmp_path_factory.mktemp("models") / "models.json"
    path.write_text(json.dumps(models))
    with serving(MODELS=str(path)) as server:
        yield server


def infer(server: Berth, data: list[Any], model: str = "double") -> int:
    tensor = {"name": "x", "shape": [len(data) // 2, 2], "datatype": "FP32", "data": data}
    return server.post(f"/v2/models/{model}/infer", {"inputs": [tensor]}).status


def test_the_page_is_valid_and_says_everything_once(several: Berth) -> None:
    assert infer(several, [1, 2]) == 200
    several.post("/models/apart/predict", {"x": 7})
    page = Page(several)
    for mark in ("# HELP ", "# TYPE "):
        named = Counter(line.split()[2] for line in page.text.splitlines() if line.startswith(mark))
        assert set(named.values()) == {1}
        assert len(named) == len(page.families)
    samples = [line.rpartition(" ")[0] for line in page.text.splitlines() if not line.startswith("#")]
    assert [sample for sample, count in Counter(samples).items() if count > 1] == []
    for family in page.families:
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        if family.type == "counter" and not family.name.startswith("nv_inference_"):
            assert f"# TYPE {family.name}_total counter" in page.text
    assert {sample.labels["model"] for family in page.families for sample in family.samples if "model" in sample.labels}
    assert page.value("berth_pending_requests", model='od"d\\\n') == 0


def test_buckets_are_cumulative_and_agree_with_count_and_sum(several: Berth) -> None:
    infer(several, [1, 2])
    for family in Page(several).families:
        if family.type != "histogram":
            continue
        series: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        rest: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for sample in family.samples:
            labels = tuple(sorted((key, value) for key, value in sample.labels.items() if key != "le"))
            if sample.name.endswith("_bucket"):
                series.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
            else:
                rest[sample.name.removeprefix(family.name), labels] = sample.value
        for labels, buckets in series.items():
            assert buckets == sorted(buckets)
            assert [count for _, count in buckets] == sorted(count for _, count in buckets)
            assert buckets[-1] == (float("inf"), rest["_count", labels])
            assert rest["_sum", labels] >= 0


def test_every_way_to_an_answer_is_counted_alike(weights: Path) -> None:
    with serving(FORMAT="onnx", WEIGHTS=str(weights / "double.onnx")) as server:
        body = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
        request = b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        total = 2500  # more than are logged one by one, so both the general way and the express lane are taken
        with server.connect() as connection:
            stream = connection.makefile("rb")
            for _ in range(total):
                connection.sendall(request)
                length = 0
                while (line := stream.readline()) != b"\r\n":
                    if line.startswith(b"Content-Length"):
                        length = int(line.split()[1])
                stream.read(length)
        page = Page(server)
        assert 0 < page.value("berth_express_requests_total") < total
        for name in (
            "nv_inference_request_success",
            "nv_inference_count",
            "berth_requests_total",
            "berth_request_seconds_count",
            "berth_queue_seconds_count",
            "berth_decode_seconds_count",
            "berth_encode_seconds_count",
        ):
            labels = {"route": "v2.infer"} if name == "berth_requests_total" else {}
            assert page.value(name, **labels) == total, name
        assert page.value("nv_inference_exec_count") == page.value("berth_predict_seconds_count") <= total
        assert page.value("nv_inference_request_duration_us") > page.value("nv_inference_compute_infer_duration_us") > 0
        statistics = server.get("/v2/models/model/stats").json["model_stats"][0]
        assert statistics["inference_stats"]["compute_infer"]["count"] == total
        assert abs(statistics["last_inference"] / 1000 - time.time()) < 60


def test_a_batch_counts_as_one_run_and_as_the_time_of_each_of_its_requests() -> None:
    with serving(**predictor("Batched", MAX_BATCH_SIZE="8", MAX_BATCH_DELAY_MS="5000")) as server:
        threads = [threading.Thread(target=server.predict, kwargs={"x": x, "slow": 0.2}) for x in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        page = Page(server)
        assert page.value("nv_inference_exec_count") == page.value("berth_predict_seconds_count") == 1
        assert page.value("nv_inference_count") == page.value("nv_inference_request_success") == 8
        alone = page.value("berth_predict_seconds_sum")
        assert alone >= 0.2
        assert page.value("nv_inference_compute_infer_duration_us") == pytest.approx(8 * alone * 1e6, rel=0.01)


def test_pending_are_those_that_wait_for_a_run() -> None:
    with serving(**predictor("Slow")) as server:
        threads = [threading.Thread(target=server.predict, kwargs={"seconds": 2.0 / 4}) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + DEADLINE_S
        while (page := Page(server)).value("berth_pending_requests") < 2:
            assert time.monotonic() < deadline
        assert page.value("nv_inference_pending_request_count") == page.value("berth_pending_requests") - 1
        for thread in threads:
            thread.join()
        assert Page(server).value("nv_inference_pending_request_count") == 0


@pytest.mark.parametrize("workers", ["0", "1"])
def test_failures_are_counted_by_reason_and_never_as_successes(workers: str) -> None:
    with serving(**predictor("RaisesInPredict", WORKERS=workers)) as server:
        statuses = [server.predict(x=value).status for value in (1, 3, 4, 7)]
        assert statuses == [500, 422, 500, 200]
        assert server.predict(x="text").status == 422
        assert server.get("/predict").status == 405
        page = Page(server)
        assert page.value("nv_inference_request_failure", reason="BACKEND") == 2
        assert page.value("nv_inference_request_failure", reason="OTHER") == 2
        assert page.value("nv_inference_request_success") == page.value("berth_request_seconds_count") == 1
        assert page.value("berth_requests_total", model="model", route="predict", status="422") == 2
        assert page.value("berth_requests_total", model="model", route="predict", status="405") == 1


def test_refused_and_abandoned_requests_have_their_reasons() -> None:
    with serving(**predictor("Slow", MAX_QUEUE="1", REQUEST_TIMEOUT_S="10")) as server:
        body = b'{"seconds":1.5}'
        with server.connect() as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            wait_for(server, "berth_pending_requests", 1)
            refused = server.predict(seconds=0)
            assert refused.status == 503
            assert "total;dur=" in refused.headers["Server-Timing"]
            wait_for(server, "nv_inference_request_failure", 1, reason="REJECTED")
        wait_for(server, "nv_inference_request_failure", 1, reason="CANCELED")
        page = wait_for(server, "berth_pending_requests", 0)
        assert page.value("nv_inference_request_success") == 0


def test_streams_workers_and_cache_hits_are_counted(several: Berth) -> None:
    assert (
        several.post("/models/tokens/predict", {"text": "a", "count": 3}, {"Accept": "application/jsonl"}).status == 200
    )
    assert several.post("/models/apart/predict", {"x": 7}).status == 200
    odd = "/models/od%22d%5C%0A/predict"
    for _ in range(3):
        assert several.post(odd, {"x": 1, "slow": 0}).status == 200
    page = wait_for(several, "nv_inference_request_success", 1, model="tokens")
    assert page.value("nv_inference_exec_count", model="tokens") == 1
    assert page.value("berth_worker_events_total", model="apart", event="started") == 1
    assert page.value("berth_worker_resident_memory_bytes", model="apart") > 1_000_000
    assert page.value("berth_worker_cpu_seconds_total", model="apart") >= 0
    assert page.value("berth_worker_running_requests", model="apart") == 0
    assert page.value("berth_cache_hits_total") == 2
    assert page.value("nv_inference_request_success", model='od"d\\\n') == 3
    assert page.value("nv_inference_exec_count", model='od"d\\\n') == 1  # a hit is no run


def test_the_process_is_described(several: Berth) -> None:
    idle = several.connect()
    page = wait_for(several, "berth_open_connections", 2)
    idle.close()
    wait_for(several, "berth_open_connections", 1)
    pages = os.sysconf("SC_PAGE_SIZE") * int(Path(f"/proc/{several.process.pid}/statm").read_text().split()[1])
    assert page.value("process_resident_memory_bytes") == pytest.approx(pages, rel=0.3)
    assert page.value("process_cpu_seconds_total") > 0
    assert time.time() - 3600 < page.value("process_start_time_seconds") <= time.time() + 1
    assert 5 < page.value("process_open_fds") < page.value("process_max_fds")
    assert page.value("berth_info") == 1
    assert page.value("berth_event_loop_lag_seconds_count") >= 0


def test_a_loop_that_is_held_up_shows_in_its_lag() -> None:
    with serving(**predictor("Slow")) as server:
        deadline = time.monotonic() + DEADLINE_S
        while (page := Page(server)).value("berth_event_loop_lag_seconds_count") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(server.process.pid, 19)  # SIGSTOP: the loop comes to nothing for a while
        time.sleep(1.5)
        os.kill(server.process.pid, 18)
        while (page := Page(server)).value("berth_event_loop_lag_seconds_sum") < 0.9:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert page.value("berth_event_loop_lag_seconds_bucket", le="0.5") < page.value(
            "berth_event_loop_lag_seconds_count"
        )


def test_server_timing_is_on_every_answer_of_a_model_and_on_no_other(several: Berth) -> None:
    odd = "/models/od%22d%5C%0A/predict"
    several.post(odd, {"x": 5, "slow": 0})
    asked = {
        "ran": (several.post("/models/apart/predict", {"x": 7}), 200, "predict;dur="),
        "failed": (several.post("/models/apart/predict", {"x": 1}), 500, "predict;dur="),
        "refused by the model": (several.post("/models/apart/predict", {"x": 3}), 422, "predict;dur="),
        "refused": (several.post("/models/apart/predict", {"x": "a"}), 422, "total;dur="),
        "remembered": (several.post(odd, {"x": 5, "slow": 0}), 200, "cache;desc=hit"),
        "stream": (several.post("/models/tokens/predict", {"text": "a", "count": 2}), 200, 'desc="first item"'),
        "collected": (several.post("/v2/models/tokens/generate", {"text": "a", "count": 2}), 200, "total;dur="),
        "v2": (several.post("/v2/models/double/infer", b"{"), 400, "total;dur="),
    }
    for what, (answer, status, words) in asked.items():
        assert (what, answer.status) == (what, status)
        assert words in answer.headers["Server-Timing"], what
    assert "Server-Timing" not in several.get("/livez").headers
