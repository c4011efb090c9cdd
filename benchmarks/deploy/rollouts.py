"""Rollouts, one after the other, under load: requests that failed, latency during them, and how long each took.

`python -m benchmarks.deploy.rollouts --rollouts 25` prints one JSON object. A yard, a Docker Engine and an Envoy are
started for the measurement. The load is wrk at a constant rate, a quarter of what the machine answers when it is asked
as fast as answers come. That is measured before each kind of rollout, for on a shared host it is three times as much on
one day as on another. Most requests are on connections that are kept and some on connections that are made anew for
every request; the quiet figures are of the same load, right before. `--load saturating` asks as fast as answers come:
on few cores that tells what the machine has, not what rollouts cost. After each rollout there is a pause, with the same
load, so long that a hundred rollouts see over a million requests; `--pause 0` shows what rollouts cost without the calm
between.
Latencies are told twice: by wrk of all the time, calm included, and by the gateway's log of the requests alone that
began while a rollout ran (`during`). These are compared with those that began in the last second of the pauses between
them (`calm`), so that a host that has neighbours does the same to both; without pauses, with a quiet time before.
And once more without the requests that other programs held up, of this machine or of its host's other machines
(`undisturbed`, `bystanders`); `stolen_s` is the processor time that the latter took meanwhile.
Docker is set up as `docs/operations/install.md` advises (decision 58): its containers have their control groups side by
side, as under systemd, and its daemons have the time that nothing else wants.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.deploy.bystanders import Bystanders, watching
from benchmarks.deploy.steal import stolen_s
from benchmarks.deploy.windows import FLUSH_S, Span, Told, told
from benchmarks.deploy.wrk import SATURATING, Both, Mix, loaded, steady, under
from dockyard.gateway.listener import ACCESS_LOG
from dockyard.spec.deployment import Deployment, Keep, Strategy, StrategyKind
from dockyard.spec.home import Home
from dockyard.spec.status import Receipt
from tests.support.dockerd import own_engine
from tests.support.projects import build_in, write_adder
from tests.support.yards import RunningYard, running_yard

NAME = "adder"
BODY = '{"left": 1.0, "right": 2.0}'
REPLICAS = 2
CARRIED_S = 4.0
"""For so long the deployment is asked as fast as answers come; it is warm after that."""
QUIET_S = 12
CALM_S = 1.0
"""About as long as a rollout."""
PAUSE_S = 4.5
"""After each rollout, under the same load, at least. The calm at its end begins when the revision before is gone."""
REQUESTS = 10_500
"""In a rollout and the pause after it, at least: a hundred of them see over a million."""
ROOM = 4
"""The load is this part of what the machine answers: what starts beside it then finds time that nobody wants."""
LOADS = ("steady", "saturating")
ENGINES = ("runc", "docker")


def measure(
    rollouts: int, load: str = "steady", engines: Sequence[str] = ENGINES, pause: float | None = None
) -> dict[str, Any]:
    """So many rollouts of each kind on each engine, under load, with a pause (seconds) after each.

    Without one given, it is as long as it takes for `REQUESTS`.
    """
    folder = Path(tempfile.mkdtemp(prefix="dyb-"))
    try:
        home = Home(folder)
        build_in(write_adder(folder / "project"), home, "adder:1")
        with watching() as others, own_engine("--cgroup-parent=/") as docker:
            docker.give_way()
            found = {}
            for engine in engines:
                with running_yard(home, {"DOCKER_HOST": f"unix://{docker.socket}"}, "--engine", engine) as yard:
                    found[engine] = _on_engine(yard, rollouts, load, pause, others)
            return {"load": load, "rollouts": found, "totals": _totals(found)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _on_engine(yard: RunningYard, rollouts: int, load: str, pause: float | None, others: Bystanders) -> dict[str, Any]:
    assert yard.deploy(wanted("0", StrategyKind.ROLLING)).succeeded
    url = f"http://127.0.0.1:{yard.port}/models/{NAME}/predict"
    found: dict[str, Any] = {}
    for kind in StrategyKind:
        carried = loaded(url, BODY, CARRIED_S, SATURATING).requests / CARRIED_S
        mix = SATURATING if load == "saturating" else steady(carried / ROOM)
        between = max(PAUSE_S, REQUESTS / (mix.rate or carried) - CALM_S) if pause is None else pause
        measured = _of_kind(yard, kind, rollouts, _Load(url, mix, others), between)
        found[kind] = {"carried_per_s": carried, **asdict(mix), "pause_s": between, **measured}
    return found | {"rollback": _rollbacks(yard), "deploy": _deploys(yard)}


def _of_kind(yard: RunningYard, kind: StrategyKind, rollouts: int, load: _Load, pause: float) -> dict[str, Any]:
    with load.seen(yard) as quiet:
        for _ in range(QUIET_S):
            with quiet.span(quiet.calm_spans):
                time.sleep(CALM_S)
    receipts: list[Receipt] = []
    with load.seen(yard) as seen:
        for number in range(rollouts):
            with seen.span(seen.during_spans):
                receipts.append(yard.deploy(wanted(f"{kind}-{number}", kind)))
            time.sleep(max(0.0, pause - CALM_S))
            if pause > CALM_S:
                with seen.span(seen.calm_spans):
                    time.sleep(CALM_S)
    return {
        "rollouts": len(receipts),
        "succeeded": sum(each.succeeded for each in receipts),
        "median_s": _median(receipts),
        "dropped_by_receipts": sum(each.dropped for each in receipts),
        "quiet": quiet.told(),
        **seen.told(),
        "p99_over_quiet": seen.p99_ms / quiet.p99_ms,
        **_ratios("", seen.all, quiet.all),
        **(_ratios("undisturbed_", seen.undisturbed, quiet.undisturbed) if seen.watched else {}),
    }


@dataclass
class _Parts:
    """What the gateway's log says of a load: of its rollouts and of its calm."""

    during: Told | None = None
    calm: Told | None = None

    def told(self) -> dict[str, Any]:
        """As JSON says it."""
        return {name: part for name, part in asdict(self).items() if part}


def _ratios(which: str, seen: _Parts, quiet: _Parts) -> dict[str, float]:
    during, calm = seen.during, seen.calm or quiet.calm
    assert during is not None
    assert calm is not None
    return {
        f"{which}during_p99_over_quiet": during.p99_ms / calm.p99_ms,
        f"{which}median_p99_over_quiet": during.median_p99_ms / calm.median_p99_ms,
    }


@dataclass
class _Seen:
    """A load from its begin to its end, and the spans of it that are looked at by themselves.

    What the log says of these is there when it has ended: of all requests, and without those that others held up, if
    these could be watched.
    """

    load: Both
    during_spans: list[Span] = field(default_factory=list)
    calm_spans: list[Span] = field(default_factory=list)
    all: _Parts = field(default_factory=_Parts)
    watched: bool = False
    undisturbed: _Parts = field(default_factory=_Parts)
    disturbed_s: float = 0.0
    stolen_s: float = 0.0

    @contextmanager
    def span(self, among: list[Span]) -> Iterator[None]:
        """Look at the time that the body takes."""
        begin = time.time()
        yield
        among.append((begin, time.time()))

    @property
    def p99_ms(self) -> float:
        """Of all of the load's time."""
        assert self.load.kept is not None
        return self.load.kept.p99_ms

    def told(self) -> dict[str, Any]:
        """All of it, as JSON says it."""
        apart = {"undisturbed": self.undisturbed.told(), "disturbed_s": self.disturbed_s} if self.watched else {}
        return {**self.load.told(), **self.all.told(), "stolen_s": self.stolen_s, **apart}

    def read(self, log: Path, others: Sequence[Span] | None) -> None:
        """Take what the log says, now that it is written; `others` held a processor in these spans."""
        self.all = self._parts(log, ())
        if others is not None:
            self.watched, self.undisturbed = True, self._parts(log, others)
            begin = min(span[0] for span in (*self.during_spans, *self.calm_spans))
            self.disturbed_s = sum(span[1] - span[0] for span in others if span[0] >= begin)

    def _parts(self, log: Path, disturbed: Sequence[Span]) -> _Parts:
        return _Parts(
            told(log, self.during_spans, disturbed=disturbed) if self.during_spans else None,
            told(log, self.calm_spans, disturbed=disturbed) if self.calm_spans else None,
        )


@dataclass(frozen=True)
class _Load:
    """What a deployment is asked, and how often. `others`: who else may hold a processor."""

    url: str
    mix: Mix
    others: Bystanders

    @contextmanager
    def seen(self, yard: RunningYard) -> Iterator[_Seen]:
        """As long as the block takes; what it saw is known after that."""
        before = stolen_s()
        with under(self.url, BODY, self.mix) as both:
            seen = _Seen(both)
            yield seen
        seen.stolen_s = stolen_s() - before
        time.sleep(FLUSH_S)
        seen.read(yard.home.yard / "gateway" / ACCESS_LOG, self.others.spans())


def _rollbacks(yard: RunningYard) -> dict[str, Any]:
    """Rollbacks to replicas that are kept warm, and to frozen ones: seconds from asking to traffic switched."""
    found: dict[str, Any] = {}
    for keep in (Keep.WARM, Keep.FROZEN):
        seconds = []
        for number in range(5):
            strategy = Strategy(kind=StrategyKind.BLUE_GREEN, keep=keep)
            assert yard.deploy(wanted(f"{keep}-{number}", StrategyKind.BLUE_GREEN, strategy=strategy)).succeeded
            if keep is Keep.FROZEN:
                time.sleep(7)
            receipt = yard.rollback(NAME)
            assert receipt.succeeded, receipt
            seconds.append(receipt.seconds)
        found[keep] = {"median_s": statistics.median(seconds), "longest_s": max(seconds)}
    return found


def _deploys(yard: RunningYard) -> dict[str, Any]:
    """A new revision of an image in the store, one replica, goldens and all."""
    seconds = []
    for number in range(5):
        begun = time.perf_counter()
        assert yard.deploy(wanted(f"one-{number}", StrategyKind.ROLLING, replicas=1)).succeeded
        seconds.append(time.perf_counter() - begun)
    return {"median_s": statistics.median(seconds), "longest_s": max(seconds)}


def wanted(mark: str, kind: StrategyKind, *, replicas: int = REPLICAS, strategy: Strategy | None = None) -> Deployment:
    return Deployment(
        name=NAME,
        image="adder:1",
        replicas=replicas,
        environment={"MARK": mark},
        strategy=strategy or Strategy(kind=kind, rollback_window_s=2),
    )


def _median(receipts: list[Receipt]) -> float:
    return statistics.median(each.seconds for each in receipts)


def _totals(engines: dict[str, Any]) -> dict[str, float]:
    kinds = [found[kind] for found in engines.values() for kind in StrategyKind]
    loads = [each[load] for each in kinds for load in ("kept", "fresh")]
    return {
        "rollouts": sum(each["rollouts"] for each in kinds),
        "least_rate": min(each["kept_rate"] + each["fresh_rate"] for each in kinds),
        "requests": sum(each["requests"] for each in loads),
        "failed": sum(each["failed"] for each in loads),
        "stolen_s": sum(each["stolen_s"] for each in kinds),
        **{name: max(each[name] for each in kinds) for name in kinds[0] if name.endswith("over_quiet")},
        "rollback_warm_s": max(found["rollback"][Keep.WARM]["median_s"] for found in engines.values()),
        "deploy_s": max(found["deploy"]["median_s"] for found in engines.values()),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=25, help="of each kind, on each engine; default: 25")
    parser.add_argument(
        "--load", choices=LOADS, default="steady", help="a constant rate with room (default), or all that goes"
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="default: both")
    parser.add_argument(
        "--pause",
        type=float,
        help=f"seconds after each rollout, one of calm among them; default: {PAUSE_S}, or until {REQUESTS} requests",
    )
    options = parser.parse_args()
    print(json.dumps(measure(**vars(options)), indent=1))


if __name__ == "__main__":
    main()
