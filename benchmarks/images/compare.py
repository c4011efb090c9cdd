"""The same model and requirements into an image, side by side: Dockyard, and a Dockerfile with pip and with uv.

`python -m benchmarks.run images` measures and writes a result; `python -m benchmarks.images.compare` prints one JSON
object and the table. The Dockerfiles are built by a Docker Engine that is started for the measurement and used by
nobody else, since its caches are emptied; it ends with the measurement. Images are pushed to Debian's docker-registry
on loopback, through a proxy that counts what is sent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.images.bento import BentoML
from benchmarks.images.contenders import Contender, Dockerfile, Dockyard, timed_edits
from benchmarks.images.debian_image import make_images
from benchmarks.images.engine import Engine
from benchmarks.serving.environments import NotRun
from dockyard.oci.media import MANIFESTS
from tests.support.cutting_proxy import cutting_proxy
from tests.support.dockerd import own_engine
from tests.support.registry import running_registry

CLASSIC = "-classic"
EDITS = 5  # of each run, half a second apart
NAMES = ("dockyard", "dockerfile-pip", "dockerfile-uv", f"dockerfile-pip{CLASSIC}", "bentoml")
_NOTES = """\
- Cold: no cache of any kind. The Dockerfiles' base is in the engine before their clock starts; Dockyard fetches and
  makes its own within the time.
- Code edit: the Dockerfiles are built over the engine's API, without the start of a command, and have then an image in
  the engine; `dockyard` starts within its time, and has then a compressed image with its bill of materials and
  provenance.
- Code edit, by the command: from the moment before the save until what users type, `docker build` or `dockyard build`,
  has ended (BentoML's has no such row of its own). Five edits a run, half a second apart, with every cache warm.
- Code edit, lasting process: like for like, from the moment before the save until the process that stays says that the
  image is made. Dockyard's is `dockyard build --watch`, and has then image, bill of materials and provenance in its
  store; the others' is the engine, asked over its API with the whole context, as in the row "code edit" (BentoML's
  command starts anew). Five edits a run, half a second apart, with every cache warm.
- By the command, times Dockyard's lasting process: who edits and waits for an image types `docker build`, or has
  `dockyard build --watch` run.
- Classic: the builder that Debian's `docker build` uses unless DOCKER_BUILDKIT=1 is set. It has no cache mounts.
- With bill of materials: what it takes until a registry has the image and somebody has its bill of materials; the
  others' is written by syft, which reads the image from the registry.
- The engine compresses layers when it pushes them, Dockyard when it builds.
- Pushes go to an empty registry on loopback. What Dockyard sends after a code edit is mostly the bill of materials and
  provenance.
- Two builds: Dockyard with the same lock in another folder, home, umask, time zone, locale and hash seed; the
  Dockerfiles twice in one place, without cache.
"""


def measure(*, runs: int = 3, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """Every run of each contender, the medians, and how many times as long or as large as Dockyard's the others are."""
    with tempfile.TemporaryDirectory(prefix="dy-images-") as name:
        folder = Path(name)
        measured: dict[str, Any] = {}
        if "dockyard" in names:
            measured["dockyard"] = _measured(Dockyard(folder / "dockyard"), folder, runs)
        if others := [one for one in names if one != "dockyard"]:
            measured |= _dockerfiles(others, folder, runs)
    return {"benchmark": "images/compare", **measured, "ratios": ratios(measured)}


def _dockerfiles(names: Sequence[str], folder: Path, runs: int) -> dict[str, Any]:
    with own_engine() as docker:
        engine = Engine(f"unix://{docker.socket}")
        make_images(engine)
        return {name: _measured(_of_engine(name, engine, folder / name), folder, runs) for name in names}


def _of_engine(name: str, engine: Engine, folder: Path) -> Contender:
    if name == "bentoml":
        return BentoML(engine, folder)
    installer = name.removeprefix("dockerfile-").removesuffix(CLASSIC)
    return Dockerfile(replace(engine, classic=name.endswith(CLASSIC)), folder, installer)


@dataclass(frozen=True)
class Registry:
    """A registry: `counted` is the address through the proxy, `sent` the bytes that went there so far."""

    host: str
    counted: str
    sent: Callable[[], int]

    def image_bytes(self, repository: str) -> int:
        """Layers and configuration of the image tagged 1, as they are stored."""
        accept = {"Accept": ", ".join(sorted(MANIFESTS))}
        asked = urllib.request.Request(f"http://{self.host}/v2/{repository}/manifests/1", headers=accept)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=30) as answer:
            manifest = json.load(answer)
        return int(manifest["config"]["size"]) + sum(int(layer["size"]) for layer in manifest["layers"])


@contextmanager
def _registry(folder: Path) -> Iterator[Registry]:
    with running_registry(folder) as running, cutting_proxy(running.host, "up", []) as proxy:
        yield Registry(running.host, proxy.host, lambda: proxy.moved["up"])


def _measured(contender: Contender, folder: Path, runs: int) -> dict[str, Any]:
    cold, code, dependency, sizes, sent = [], [], [], [], []
    cold_pushed, code_pushed, described = [], [], []
    by_command: list[float] = []
    lasting: list[float] = []
    for number in range(runs):
        contender.reset()
        with _registry(folder / f"registry-{contender.name}-{number}") as registry:
            cold.append(_seconds(contender.build))
            cold_pushed.append(cold[-1] + _seconds(lambda: contender.push(registry.counted)))
            sizes.append(registry.image_bytes(contender.name))
            contender.edit_code(number)
            code.append(_seconds(contender.build))
            before = registry.sent()
            code_pushed.append(code[-1] + _seconds(lambda: contender.push(registry.counted)))
            sent.append(registry.sent() - before)
            described.append(code_pushed[-1] + _seconds(lambda: contender.describe(registry.host)))
        contender.build_by_command()  # where its cache is not the API's
        first_edit = runs + 2 * number * EDITS
        edits = range(first_edit, first_edit + EDITS)
        by_command += timed_edits(contender, contender.build_by_command, edits)
        lasting += contender.edits_in_lasting(range(edits.stop, edits.stop + EDITS))
        contender.edit_dependencies()
        dependency.append(_seconds(contender.build))
    first, second = contender.build_twice()
    return {
        "how": contender.how,
        "cold_s": cold,
        "code_edit_s": code,
        "dependency_edit_s": dependency,
        "cold_pushed_s": cold_pushed,
        "code_edit_to_registry_s": code_pushed,
        "code_edit_by_command_s": by_command,
        "code_edit_described_s": described,
        "code_edit_lasting_s": lasting,
        "median_cold_s": statistics.median(cold),
        "median_code_edit_s": statistics.median(code),
        "median_dependency_edit_s": statistics.median(dependency),
        "median_cold_pushed_s": statistics.median(cold_pushed),
        "median_code_edit_to_registry_s": statistics.median(code_pushed),
        "median_code_edit_by_command_s": statistics.median(by_command),
        "median_code_edit_described_s": statistics.median(described),
        "median_code_edit_lasting_s": statistics.median(lasting),
        "image_bytes": statistics.median(sizes),
        "code_edit_pushed_bytes": statistics.median(sent),
        "two_builds": [first, second],
        "equal": first == second,
    }


def _seconds(build: Callable[[], object]) -> float:
    started = time.perf_counter()
    build()
    return time.perf_counter() - started


_BY_COMMAND, _LASTING = "median_code_edit_by_command_s", "median_code_edit_lasting_s"
_AGAINST_COMMAND = "code_edit_by_command_against_lasting"
_FIGURES = (
    ("cold", "median_cold_s", "s"),
    ("code edit", "median_code_edit_s", "s"),
    ("code edit, by the command", _BY_COMMAND, "s"),
    ("code edit, lasting process", _LASTING, "s"),
    ("dependency edit", "median_dependency_edit_s", "s"),
    ("cold and pushed", "median_cold_pushed_s", "s"),
    ("code edit and pushed", "median_code_edit_to_registry_s", "s"),
    ("code edit, pushed, with bill of materials", "median_code_edit_described_s", "s"),
    ("image", "image_bytes", "MB"),
    ("pushed after a code edit", "code_edit_pushed_bytes", "kB"),
)
_SCALES = {"s": 1.0, "MB": 1e6, "kB": 1e3}


def ratios(measured: Mapping[str, Any]) -> dict[str, float]:
    """Of each figure, the best other's over Dockyard's; the classic builder's code edit too, and the command's over
    Dockyard's lasting process. Nothing without both.
    """
    others = [one for name, one in measured.items() if name != "dockyard"]
    own = measured.get("dockyard")
    if not own or not others:
        return {}
    found = {key: min(other[key] for other in others) / own[key] for _, key, _ in _FIGURES}
    edit = "median_code_edit_s"
    classic = [one[edit] / own[edit] for name, one in measured.items() if name.endswith(CLASSIC)]
    if classic:
        found[f"classic_{edit}"] = min(classic)
    return found | {_AGAINST_COMMAND: min(other[_BY_COMMAND] for other in others) / own[_LASTING]}


def table(result: Mapping[str, Any]) -> str:
    """The contenders side by side: ratios first, then what was measured, then how."""
    found = [name for name in NAMES if name in result]
    lines = [
        "## Images, side by side",
        "",
        f"| | {' | '.join(found)} |",
        f"|---|{'---:|' * len(found)}",
    ]
    if own := result.get("dockyard"):
        for title, key, _ in _FIGURES:
            lines.append(_row(f"{title}, times dockyard's", [f"{result[name][key] / own[key]:,.1f}" for name in found]))
        against = [f"{result[name][_BY_COMMAND] / own[_LASTING]:,.1f}" for name in found]
        lines.append(_row("code edit, by the command, times dockyard's lasting process", against))
    for title, key, unit in _FIGURES:
        lines.append(_row(title, [f"{result[name][key] / _SCALES[unit]:,.2f} {unit}" for name in found]))
    lines.append(_row("two builds are equal", ["yes" if result[name]["equal"] else "no" for name in found]))
    lines += ["", *(f"- {name}: {result[name]['how']}." for name in found)]
    return "\n".join(lines) + "\n" + _NOTES


def _row(title: str, cells: Sequence[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(NAMES), help="contenders, with commas between them")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"no contender {', '.join(sorted(unknown))}")
    try:
        result = measure(runs=options.runs, names=names)
    except NotRun as why:
        parser.exit(1, f"{why}\n")
    print(json.dumps(result, indent=2))
    print(table(result))


if __name__ == "__main__":
    main()
