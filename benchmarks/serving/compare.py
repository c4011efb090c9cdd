"""Compares berth with other model servers: the same models, one core for the server, another for the load generator.

`python -m benchmarks.serving.compare --quick --peers mosec,fastapi` or `make bench ARGS="compare --quick"`. It installs
each peer into its own environment, measures, and writes a JSON result and a Markdown table. berth is always measured
with the peers, because a ratio means something only within one run; `--join` makes one page of several such results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.provenance import commit, machine
from benchmarks.serving import trial
from benchmarks.serving.asking import PROTOCOLS
from benchmarks.serving.environments import NotRun, cache, environment, versions
from benchmarks.serving.models import TITLES, Model, export
from benchmarks.serving.peers import Peer, discover
from benchmarks.serving.report import markdown

RESULTS = Path(__file__).parents[1] / "results"
CONNECTIONS = (1, 16, 64, 256)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or join results; write and print the page."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("compare: stopped"))  # so that the servers are stopped too
    parser = _parser()
    options = parser.parse_args(arguments)
    stem = options.output or RESULTS / f"{datetime.now(UTC):%Y-%m-%d-%H%M}-serving-{commit()[:12]}"
    if options.join:
        result = join([json.loads(path.read_text()) for path in options.join])
    else:
        peers = discover()
        _refuse_unknown(parser, "--peers", options.peers, peers)
        _refuse_unknown(parser, "--models", options.models, TITLES)
        _refuse_unknown(parser, "--protocols", options.protocols, PROTOCOLS)
        chosen = [peer for name, peer in peers.items() if name == "berth" or name in options.peers]
        result = compare(options, chosen, stem)
    write(result, stem)
    print(f"\n{markdown(result)}\nWritten to {stem}.json and .md; the peers' logs are in {cache() / 'logs'}")


def compare(options: argparse.Namespace, peers: Sequence[Peer], stem: Path) -> dict[str, Any]:
    """Every peer with every model, pass after pass; whatever happens to one, the others are measured.

    What there is so far is written after each server, so that an interrupted run is not lost.
    """
    logs = cache() / "logs" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    logs.mkdir(parents=True)
    os.sched_setaffinity(0, {options.client_core})
    result = _head(options)
    installed = _install(peers, result, logs)
    with tempfile.TemporaryDirectory(prefix="bench-models-") as folder:
        models = export(options.models, Path(folder))
        for number in range(options.passes):
            for model in models:
                for peer, python in installed.items():
                    print(f"pass {number + 1} of {options.passes}: {model.name}, {peer.name} ...", flush=True)
                    _trial(result, peer, python, model, options, logs)
                    write(result, stem)
    return result


def join(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several runs as one result; SystemExit unless commit, machine and settings agree.

    Every line keeps the run that it is from: a ratio is taken to berth in the same run.
    """
    first = results[0]
    for other in results[1:]:
        for key in ("commit", "machine", "settings"):
            if other[key] != first[key]:
                raise SystemExit(f"compare: --join: {key} differs: {first[key]} and {other[key]}")
    joined = {key: first[key] for key in ("commit", "machine", "settings", "tools")}
    peers = {name: peer for result in results for name, peer in result["peers"].items()}
    joined["peers"] = {name: peers[name] for name in discover() if name in peers}
    return joined | {key: [row for result in results for row in result[key]] for key in ("starts", "loads", "not_run")}


def write(result: Mapping[str, Any], stem: Path) -> None:
    """The JSON and the page next to it, each replaced as a whole."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", json.dumps(result, indent=1) + "\n"), (".md", markdown(result))):
        fresh = stem.with_name(stem.name + suffix + ".new")
        fresh.write_text(text)
        fresh.replace(stem.with_name(stem.name + suffix))


def _head(options: argparse.Namespace) -> dict[str, Any]:
    keys = ("passes", "seconds", "server_core", "client_core")
    return {
        "commit": commit(),
        "machine": machine(),
        "settings": {key: getattr(options, key) for key in keys},
        "tools": {"wrk": _first_line(["wrk", "-v"]), "uv": _first_line(["uv", "--version"])},
        "peers": {},
        "starts": [],
        "loads": [],
        "not_run": [],
    }


def _install(peers: Sequence[Peer], result: dict[str, Any], logs: Path) -> dict[Peer, Path]:
    """The Python of each peer that installed, into `result` its versions, or why it did not."""
    ready = {}
    for peer in peers:
        print(f"installing {peer.name} ...", flush=True)
        try:
            for program in peer.programs:
                if not shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"):
                    raise NotRun(f"the program {program} is not installed here (Debian: apt-get install {program})")
            python = environment(peer.requirements, logs / f"{peer.name}-install.log")
        except NotRun as reason:
            result["not_run"].append({"peer": peer.name, "model": "", "protocol": "", "reason": str(reason)})
            continue
        ready[peer] = python
        result["peers"][peer.name] = {"title": peer.title, "note": peer.note, "versions": _versions(peer, python)}
    return ready


def _versions(peer: Peer, python: Path) -> dict[str, str]:
    if peer.requirements:
        return versions(python, peer.requirements)
    if peer.programs:
        return {program: _first_line([program, "-v"]).rpartition("/")[2] for program in peer.programs}
    return {"python": platform.python_version(), **versions(python, ("onnxruntime", "numpy"))}


def _trial(
    result: dict[str, Any], peer: Peer, python: Path, model: Model, options: argparse.Namespace, logs: Path
) -> None:
    plan = trial.Plan(
        protocols=options.protocols,
        connections=options.connections,
        seconds=options.seconds,
        warm_seconds=1.0,
        server_core=options.server_core,
        client_core=options.client_core,
    )
    found = trial.measure(peer, python, model, plan, logs)
    for row in (*found.starts, *found.loads):
        row["run"] = logs.name
    result["starts"] += found.starts
    result["loads"] += found.loads
    result["not_run"] += found.not_run
    for row in found.not_run:
        print(f"  not run: {row['protocol']}: {row['reason']}", flush=True)


def _first_line(command: Sequence[str]) -> str:
    """What a program says its version is."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env={"PATH": path})
    return (done.stdout + done.stderr).partition("\n")[0].strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compare", description=__doc__)
    names = _names
    parser.add_argument(
        "--peers", type=names, default=tuple(discover()), help="names separated by commas; default: all"
    )
    parser.add_argument("--models", type=names, default=tuple(TITLES), help=f"of {', '.join(TITLES)}; default: all")
    parser.add_argument("--protocols", type=names, default=PROTOCOLS, help=f"of {', '.join(PROTOCOLS)}; default: all")
    parser.add_argument("--connections", "--concurrency", type=_numbers, default=CONNECTIONS, metavar="N,N")
    parser.add_argument("--passes", "--runs", type=int, default=3, help="how often everything is measured; default: 3")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load for each line; default: 5")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--output", type=Path, help="where to write, without suffix; default: benchmarks/results/...")
    parser.add_argument("--join", type=Path, nargs="+", metavar="JSON", help="make one page of these results instead")
    quick = "one pass of two seconds with 64 connections"
    parser.add_argument("--quick", nargs=0, action=_Quick, help=quick)
    return parser


class _Quick(argparse.Action):
    """--quick sets the others; words after it may change them again."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, _values: Any, _option: Any = None) -> None:
        namespace.passes, namespace.seconds, namespace.connections = 1, 2.0, (64,)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _refuse_unknown(
    parser: argparse.ArgumentParser, option: str, given: Collection[str], known: Collection[str]
) -> None:
    if unknown := [name for name in given if name not in known]:
        parser.error(f"{option}: no {', '.join(unknown)}; there are {', '.join(known)}")


if __name__ == "__main__":
    main()
