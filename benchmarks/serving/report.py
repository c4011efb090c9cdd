"""The result of a comparison as Markdown. Called by `compare`; shows what was run, and why the rest was not."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.serving.models import TITLES

PROTOCOL_TITLES = {"json": "HTTP JSON", "binary": "HTTP binary", "grpc": "gRPC"}
DISTURBED_CORES = 0.05
CLIENT_LIMIT_CORES = 0.9
_Rows = Sequence[Mapping[str, Any]]


def markdown(result: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [_head(result), _peers(result)]
    seen = dict.fromkeys((row["model"], row["protocol"], row["connections"]) for row in result["loads"])
    for model in TITLES:
        here = [key for key in seen if key[0] == model]
        if here:
            parts.append(f"## {TITLES[model]}\n")
            parts += [_load_table(result, *key) for key in sorted(here, key=_order)]
            parts.append(_start_table(result, model))
    parts.append(_not_run(result))
    return "\n".join(part for part in parts if part)


def _order(key: tuple[str, str, int]) -> tuple[int, int]:
    return list(PROTOCOL_TITLES).index(key[1]), key[2]


def _head(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    return f"""# Model servers compared, at {result["commit"]}

Machine: {machine}. The server has core {settings["server_core"]}, the load generator core {settings["client_core"]};
onnxruntime has one thread. Medians of {settings["passes"]} passes: in each, every server is started anew and loaded for
{settings["seconds"]:g} s a line. Its answer is checked before and after.

**x**: berth's requests a second over the peer's, in the same run. Latencies are milliseconds. CPU: seconds of the whole
process tree for 1,000 requests. Memory: MiB of the whole tree, pages that processes share counted once. Behind the
number of runs, (!) marks a line during which other processes took more than {DISTURBED_CORES} of a core, and (c) one
where the load generator was as busy as its core allows, so that the server may be faster than shown.
"""


def _peers(result: Mapping[str, Any]) -> str:
    lines = ["| server | versions | configuration |", "|---|---|---|"]
    for peer in result["peers"].values():
        told = ", ".join(f"{name} {version}" for name, version in peer["versions"].items())
        lines.append(f"| {peer['title']} | {told} | {peer['note']} |")
    return "\n".join(lines) + "\n"


def _load_table(result: Mapping[str, Any], model: str, protocol: str, connections: int) -> str:
    chosen = {"model": model, "protocol": protocol, "connections": connections}
    rows = [row for row in result["loads"] if all(row[key] == value for key, value in chosen.items())]
    health = any("health_p99_ms" in row for row in rows)
    several = "connection" if connections == 1 else "connections"
    by = ", ".join(sorted({row["generator"] for row in rows}))
    lines = [
        f"### {PROTOCOL_TITLES[protocol]}, {connections} {several} (load: {by})\n",
        f"| server | form | x | requests/s | p50 | p99 | errors | CPU |{' health p99 |' if health else ''} runs |",
        f"|---|---|---:|---:|---:|---:|---:|---:|{'---:|' if health else ''}---:|",
    ]
    for name, peer in result["peers"].items():
        mine = [row for row in rows if row["peer"] == name]
        if mine:
            runs = {row["run"] for row in mine}
            berth = [row for row in rows if row["peer"] == "berth" and row["run"] in runs]
            lines.append(_load_line(peer["title"], mine, _median(berth, "requests_per_second"), health=health))
    return "\n".join(lines) + "\n"


def _load_line(title: str, rows: _Rows, berth: float | None, *, health: bool) -> str:
    rate = _median(rows, "requests_per_second") or 0.0
    ratio = f"{berth / rate:.2f}" if berth and rate else "-"
    cells = [
        title,
        rows[0]["form"],
        ratio,
        _shown(rate, 0 if rate >= 100 else 1),
        *(_shown(_median(rows, key), 2) for key in ("p50_ms", "p99_ms")),
        f"{sum(row['errors'] for row in rows):,}",
        _shown(_median(rows, "cpu_s_per_1000"), 3),
    ]
    if health:
        failed = sum(row.get("health_failed", 0) for row in rows)
        cells.append(_shown(_median(rows, "health_p99_ms"), 1) + (f" ({failed} failed)" if failed else ""))
    disturbed = " (!)" if max(row["other_cores"] for row in rows) > DISTURBED_CORES else ""
    limited = " (c)" if max(row["client_cores"] for row in rows) > CLIENT_LIMIT_CORES else ""
    cells.append(f"{len(rows)}{disturbed}{limited}")
    return f"| {' | '.join(cells)} |"


def _start_table(result: Mapping[str, Any], model: str) -> str:
    lines = [
        "### Start and memory\n",
        "| server | first right answer, s | MiB idle | MiB after load | idle CPU, % | processes |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, peer in result["peers"].items():
        mine = [row for row in result["starts"] if (row["peer"], row["model"]) == (name, model)]
        for protocol in dict.fromkeys(row["protocol"] for row in mine):
            rows = [row for row in mine if row["protocol"] == protocol]
            cells = [peer["title"] + (f" ({PROTOCOL_TITLES[protocol]})" if protocol else "")]
            keys = (("start_s", 2), ("idle_mib", 0), ("loaded_mib", 0), ("idle_cpu_percent", 1), ("processes", 0))
            lines.append(f"| {' | '.join([*cells, *(_shown(_median(rows, key), digits) for key, digits in keys)])} |")
    return "\n".join(lines) + "\n"


def _not_run(result: Mapping[str, Any]) -> str:
    reasons = dict.fromkeys(_reasons(result["not_run"]))
    return "\n".join(["## Not run\n", *reasons]) + "\n" if reasons else ""


def _reasons(rows: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for row in rows:
        what = ", ".join(word for word in (row["peer"], row["model"], row["protocol"]) if word)
        yield f"- {what}: {row['reason']}"


def _median(rows: _Rows, key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else None


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
