"""Containers of the file-type example on each engine: load, start to first answer, memory when idle.

`python -m benchmarks.containers.start` prints one JSON object with every run and the medians. It uses the engine
interface as `dockyard run` does; a Docker Engine is started for the measurement if none answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockyard.build.builder import Options, build
from dockyard.build.progress import Silent
from dockyard.build.workshop import Workshop
from dockyard.cli.ask import Address, predict, read_inputs
from dockyard.cli.launching import limits
from dockyard.engines.base import ContainerSpec, Engine
from dockyard.engines.detect import detect
from dockyard.engines.launch import launch_alone
from dockyard.oci.image import Image
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.spec.load import load_project
from tests.support.dockerd import docker_engine

EXAMPLE = Path(__file__).parents[2] / "examples" / "file-type"
IDLE_S = 3.0  # after the first answer
SAMPLE = "file=@" + str(EXAMPLE / "goldens" / "python.txt")


@dataclass(frozen=True)
class Subject:
    """The image before and after an edit of its code, in a store."""

    home: Home
    layout: Layout
    first: Image
    edited: Image


def prepare(folder: Path) -> Subject:
    """Build the example twice, the second time with a changed predictor."""
    project = folder / "file-type"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("*.lock"))
    subprocess.run([sys.executable, "train.py"], cwd=project, check=True, capture_output=True, timeout=60)
    home = Home(folder / "home")
    layout = Layout.create(home.images)
    first = _build(project, home, layout, "file-type:bench")
    file = project / "predictor.py"
    file.write_text(file.read_text() + "\nEDIT = 1\n")
    return Subject(home, layout, first, _build(project, home, layout, "file-type:edited"))


def _build(project: Path, home: Home, layout: Layout, name: str) -> Image:
    return build(Workshop(load_project(project), layout, home.cache, Silent()), Options(name)).image


async def measure_engine(engine: Engine, subject: Subject, runs: int) -> dict[str, Any]:
    """Load both images, then start the first one `runs` times."""
    loads = [
        await engine.load(image, subject.layout, f"file-type:{number}")
        for number, image in enumerate((subject.first, subject.edited))
    ]
    starts, answers, resident = [], [], []
    for number in range(runs + 1):
        spec = ContainerSpec(f"bench-{number}", subject.first, "file-type:0", resources=limits(subject.first))
        started = time.perf_counter()
        container = await launch_alone(engine, spec, runtime_folder=subject.home.containers)
        ready = time.perf_counter() - started
        try:
            address = Address(container.socket)
            inputs = await asyncio.to_thread(read_inputs, [SAMPLE], address)
            asked = time.perf_counter()
            await asyncio.to_thread(predict, address, inputs)
            answer = ready + time.perf_counter() - asked
            await asyncio.sleep(IDLE_S)
            memory = _resident()
        finally:
            await engine.remove(container.id)
        if number:  # the first start of all reads the layers from the disk
            starts.append(ready)
            answers.append(answer)
            resident.append(memory)
    return {
        "first_load": {"layers": loads[0].moved_layers, "bytes": loads[0].moved_bytes, "seconds": loads[0].seconds},
        "load_after_code_edit": {
            "layers": loads[1].moved_layers,
            "bytes": loads[1].moved_bytes,
            "seconds": loads[1].seconds,
        },
        "start_to_ready_s": starts,
        "start_to_first_answer_s": answers,
        "idle_resident_mib": resident,
        "median_start_to_ready_s": statistics.median(starts),
        "median_start_to_first_answer_s": statistics.median(answers),
        "median_idle_resident_mib": statistics.median(resident),
    }


def _resident() -> float:
    """Resident memory, in MiB, of the one process that serves in a container."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            status = (process / "status").read_text()
        except OSError:
            continue
        if words[:4] == [b"/usr/bin/python3", b"-m", b"berth", b"serve"]:
            found = re.search(r"VmRSS:\s+(\d+)", status)
            return round(int(found[1]) / 1024, 1) if found else 0.0
    raise RuntimeError("no serving process found")


def measure(*, runs: int = 5) -> dict[str, object]:
    """Both engines, every run and the medians."""
    results: dict[str, object] = {"benchmark": "containers/start"}
    with tempfile.TemporaryDirectory(prefix="dy-") as name, docker_engine() as address:
        subject = prepare(Path(name))
        for engine in ("docker", "runc"):
            results[engine] = asyncio.run(_measure(engine, address, subject, runs))
    return results


async def _measure(name: str, address: str, subject: Subject, runs: int) -> dict[str, Any]:
    choice = await detect(subject.home.runc, prefer=name, environment={"DOCKER_HOST": address})
    try:
        return await measure_engine(choice.engine, subject, runs)
    finally:
        await choice.engine.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    print(json.dumps(measure(runs=parser.parse_args().runs), indent=2))


if __name__ == "__main__":
    main()
