"""Runs every benchmark and writes one result file: machine, commit, all runs, and the figures next to their aims.

Called by `make bench`. `python -m benchmarks.run build start serving` runs the ones that are named;
`python -m benchmarks.run compare ...` is `benchmarks.serving.compare` and never part of the rest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.containers import start
from benchmarks.deploy import gateway, kills, peers, plan, rollouts, up
from benchmarks.images import build, large_push
from benchmarks.images import compare as images
from benchmarks.provenance import commit, machine
from benchmarks.serving import compare, tiny

RESULTS = Path(__file__).parent / "results"
BENCHMARKS: Mapping[str, Callable[[int], dict[str, object]]] = {
    "build": lambda runs: build.measure(runs=runs),
    "start": lambda runs: start.measure(runs=runs),
    "serving": lambda runs: tiny.measure(runs=runs),
    "plan": lambda runs: plan.measure(runs=runs),
    "up": lambda runs: up.measure(runs=2 * runs),
    "gateway": lambda runs: gateway.measure(runs=runs),
    "images": lambda runs: images.measure(runs=runs),
    "large-push": lambda _: large_push.measure(),
    "rollouts": lambda runs: rollouts.measure(rollouts=5 * runs),
    "back-to-back": lambda runs: rollouts.measure(rollouts=2 * runs, pause=0.0),
    "kills": lambda runs: kills.measure(times=4 * runs),
    "peers": lambda runs: peers.measure(deploys=runs),
}
# Measured only when they are named: they take minutes, or 12 GB of disk.
ON_REQUEST = ("images", "large-push", "rollouts", "back-to-back", "kills", "peers")
# Programs beyond those of the tests; Debian's packages are called like them.
NEEDS = {"gateway": ("nginx",), "peers": ("nginx", "docker-compose")}
# 99th percentiles over the quiet one: figure, and its name in the totals of `rollouts`.
ROLLOUT_TAILS = (
    ("99th percentile, a rollout every few seconds, over the quiet one", "p99_over_quiet"),
    ("The same, of the requests alone that began while a rollout ran", "during_p99_over_quiet"),
    ("The same, of the rollout in the middle, each having its own 99th percentile", "median_p99_over_quiet"),
    (
        "Without what other programs held up: of the requests that began while a rollout ran",
        "undisturbed_during_p99_over_quiet",
    ),
    ("Without what other programs held up: of the rollout in the middle", "undisturbed_median_p99_over_quiet"),
)
# Figure, path in the result, unit, aim ("<=" or ">=" and a number).
FIGURES = (
    ("Build of file-type, empty caches", ("build", "median_cold_s"), "s", "<= 15"),
    ("Build of file-type after an edit of its code", ("build", "median_code_edit_s"), "s", "<= 1.0"),
    ("Image of file-type, compressed", ("build", "bytes", "image"), "B", "<= 90000000"),
    ("Base of it (Debian and Python)", ("build", "bytes", "Debian and Python"), "B", "<= 20000000"),
    ("Layers that a second load into Docker moves", ("start", "docker", "load_after_code_edit", "layers"), "", "<= 1"),
    ("Bytes that it moves", ("start", "docker", "load_after_code_edit", "bytes"), "B", "<= 1000000"),
    ("Container start to first answer, Docker", ("start", "docker", "median_start_to_first_answer_s"), "s", "<= 1.0"),
    ("Container start to first answer, runc", ("start", "runc", "median_start_to_first_answer_s"), "s", "<= 0.7"),
    ("Resident memory when idle, Docker", ("start", "docker", "median_idle_resident_mib"), "MiB", "<= 70"),
    ("Resident memory when idle, runc", ("start", "runc", "median_idle_resident_mib"), "MiB", "<= 70"),
    ("Tiny ONNX, V2 JSON, 64 connections", ("serving", "median_requests_per_second"), "requests/s", ">= 25000"),
    ("99th percentile of it", ("serving", "median_p99_ms"), "ms", "<= 10"),
    ("Plan of 1,000 deployments, 10,000 replicas, at rest", ("plan", "rest", "median_ms", "1000"), "ms", "<= 200"),
    ("The same in the middle of rollouts", ("plan", "rollouts", "median_ms", "1000"), "ms", "<= 200"),
    ("Growth of one deployment's part, 100 to 4,000", ("plan", "rollouts", "growth"), "times", "<= 1.3"),
    ("`dockyard up` in a new home, until it answers", ("up", "median_s", "new"), "s", "<= 2"),
    ("The same after a kill, until its replicas are adopted", ("up", "median_s", "adopting"), "s", "<= 2"),
    ("Rollouts under load: requests", ("rollouts", "totals", "requests"), "", ">= 1000000"),
    ("Their rate, for the kind of rollout with the least", ("rollouts", "totals", "least_rate"), "requests/s", ""),
    ("Requests of rollouts that failed", ("rollouts", "totals", "failed"), "", "<= 0"),
    ("Processor time that other machines of the host took meanwhile", ("rollouts", "totals", "stolen_s"), "s", ""),
    *((title, ("rollouts", "totals", name), "times", "<= 2") for title, name in ROLLOUT_TAILS),
    (
        "The whole 99th percentile while one rollout follows the other",
        ("back-to-back", "totals", "p99_over_quiet"),
        "times",
        "<= 2",
    ),
    ("Rollback to what is kept warm", ("rollouts", "totals", "rollback_warm_s"), "s", "<= 0.1"),
    ("Deploy of one replica, goldens included", ("rollouts", "totals", "deploy_s"), "s", "<= 3"),
    ("Yard killed: requests failed", ("kills", "yard", "failed"), "", "<= 0"),
    ("Replica killed: requests failed for each", ("kills", "replica", "failed_a_kill"), "", "<= 16"),
    ("Gateway killed: back after", ("kills", "envoy", "median_back_s"), "s", "<= 1"),
    ("Engine's daemon killed, on runc: requests failed", ("kills", "daemon", "failed"), "", "<= 0"),
    ("Engine's daemon killed, on Docker: requests failed", ("kills", "daemon_on_docker", "failed"), "", "<= 0"),
    ("Deploys beside others: failed with Dockyard", ("peers", "ratios", "dockyard_failed"), "", "<= 0"),
    ("Gateway: added at the median, in front of nginx", ("gateway", "nginx", "awake", "added_p50_us"), "us", "<= 150"),
    ("Gateway: added at the median, in front of berth", ("gateway", "berth", "awake", "added_p50_us"), "us", "<= 150"),
    ("Gateway: the same where idle cores halt, nginx", ("gateway", "nginx", "asleep", "added_p50_us"), "us", ""),
    ("Gateway: the same where idle cores halt, berth", ("gateway", "berth", "asleep", "added_p50_us"), "us", ""),
    (
        "For scale: Envoy with one route and nothing else",
        ("gateway", "nginx", "awake", "for_scale_added_p50_us", "bare_envoy"),
        "us",
        "",
    ),
    (
        "For scale: nginx as the proxy",
        ("gateway", "nginx", "awake", "for_scale_added_p50_us", "nginx_as_proxy"),
        "us",
        "",
    ),
    ("Gateway: carried on one core", ("gateway", "median_requests_per_second"), "requests/s", ">= 15000"),
    ("The same, by a second of the core's time", ("gateway", "median_requests_per_cpu_second"), "requests", ">= 15000"),
    ("Dockerfile's code edit over Dockyard's", ("images", "ratios", "median_code_edit_s"), "times", ">= 5"),
    (
        "The same with the builder that Debian's Docker has as its default",
        ("images", "ratios", "classic_median_code_edit_s"),
        "times",
        ">= 5",
    ),
    (
        "The same until a registry has image and bill of materials",
        ("images", "ratios", "median_code_edit_described_s"),
        "times",
        ">= 5",
    ),
    (
        "Dockerfile's code edit over Dockyard's, both lasting processes",
        ("images", "ratios", "median_code_edit_lasting_s"),
        "times",
        ">= 5",
    ),
    (
        "`docker build` after a code edit over `dockyard build --watch`",
        ("images", "ratios", "code_edit_by_command_against_lasting"),
        "times",
        ">= 5",
    ),
    ("Dockerfile's image over Dockyard's", ("images", "ratios", "image_bytes"), "times", ">= 2"),
    ("Dockyard, empty caches", ("images", "dockyard", "median_cold_s"), "s", "<= 10"),
    ("Dockyard after a code edit", ("images", "dockyard", "median_code_edit_s"), "s", "<= 0.7"),
    ("Dockyard after a dependency edit", ("images", "dockyard", "median_dependency_edit_s"), "s", "<= 3"),
    ("Dockyard, pushed after a code edit", ("images", "dockyard", "code_edit_pushed_bytes"), "B", "<= 1000000"),
    ("Resident memory, pushing 4 GB", ("large-push", "push", "peak_resident_mb"), "MB", "<= 200"),
    ("Resident memory, pulling 4 GB", ("large-push", "pull", "peak_resident_mb"), "MB", "<= 200"),
)


def main() -> None:
    """Run, write, and print the table; or hand over to the comparison with other servers, which takes hours."""
    if sys.argv[1:2] == ["compare"]:
        compare.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which: {', '.join(BENCHMARKS)}; default: all but {' and '.join(ON_REQUEST)}",
    )
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    chosen = options.names or [name for name in BENCHMARKS if name not in ON_REQUEST]
    if missing := {each for name in chosen for each in NEEDS.get(name, ()) if shutil.which(each) is None}:
        parser.error(f"these are needed, and not installed (Debian: apt-get install): {' '.join(sorted(missing))}")
    result: dict[str, Any] = {"machine": machine(), "commit": commit(), "runs": options.runs}
    stem = f"{datetime.now(UTC):%Y-%m-%d}-{result['commit'][:12]}"
    result = _measured_before(RESULTS / f"{stem}.json", result) | result
    for name in chosen:
        print(f"measuring {name} ...", flush=True)
        result[name] = BENCHMARKS[name](options.runs)
        _write(stem, result)
    print(f"\n{markdown(result)}\nWritten to {(RESULTS / stem).relative_to(Path.cwd())}.json and .md")


def _write(stem: str, result: Mapping[str, Any]) -> None:
    """After each benchmark, so that what fails later takes nothing with it."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / f"{stem}.md").write_text(markdown(result))


def _measured_before(file: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """What the same commit was measured for earlier today on this machine, so that the parts can run one by one."""
    before: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    same = all(before.get(key) == result[key] for key in ("machine", "commit", "runs"))
    return before if same else {}


def markdown(result: Mapping[str, Any]) -> str:
    """The figures that were measured, next to their aims; nothing that was not run."""
    told = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    lines = [
        f"# Figures at {result['commit']}",
        "",
        f"Medians of {result['runs']} runs. Machine (shared with others): {told}.",
        "",
        "| figure | measured | aim |",
        "|---|---:|---:|",
    ]
    for title, path, unit, aim in FIGURES:
        value: Any = result
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            lines.append(f"| {title} | {_shown(value, unit)} | {_aim(aim, unit)} |")
    if "images" in result:
        lines += ["", images.table(result["images"]).rstrip()]
    if "peers" in result:
        lines += ["", peers.table(result["peers"]).rstrip()]
    return "\n".join(lines) + "\n"


def _aim(aim: str, unit: str) -> str:
    if not aim:
        return "-"
    sign, _, number = aim.partition(" ")
    return f"{'at most' if sign == '<=' else 'at least'} {_shown(float(number), unit)}"


def _shown(value: float, unit: str) -> str:
    if unit == "B":
        return f"{value / 1e6:,.1f} MB" if value >= 1e5 else f"{value / 1e3:,.1f} kB"
    if unit in {"s", "ms", "times"}:
        return f"{value:.2f} {unit}"
    return f"{value:,.0f} {unit}".strip()


if __name__ == "__main__":
    main()
