"""The ways into an image that `compare` measures: Dockyard, and a Dockerfile with pip or with uv.

Each has a folder of its own with the same model. The Dockerfiles are what somebody competent writes: requirements
and model before code, so that an edit of the code reuses their layers; cache mounts where the engine has BuildKit;
bytecode compiled at build.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.images.debian_image import BASE, UV
from benchmarks.images.engine import Engine

EXAMPLE = Path(__file__).parents[2] / "examples" / "file-type"
ADDED = "humanize"  # the small pure-Python requirement of a dependency edit
_SERVER = Path(__file__).parent / "dockerfile" / "serve.py"
DEADLINE_S = 300
_IMAGE = "file-type:1"
_COMMAND = (sys.executable, "-m", "dockyard.cli")
_BETWEEN_EDITS_S = 0.5
# Where a second build differs from the first, besides its folder.
_ELSEWHERE = {"TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONHASHSEED": "4242"}


class Contender(Protocol):
    """One way to make the image. Each method ends with what it did done, or raises."""

    @property
    def name(self) -> str:
        """Its column in the table."""

    @property
    def how(self) -> str:
        """What it did, in a sentence."""

    def reset(self) -> None:
        """Back to the first state of the project, with every cache empty."""

    def build(self) -> str:
        """Build; the image's digest or ID."""

    def edit_code(self, number: int) -> None:
        """Change one line of code."""

    def edit_dependencies(self) -> None:
        """Add one small requirement."""

    def build_by_command(self) -> str:
        """The same with the command that its users type."""

    def edits_in_lasting(self, numbers: Sequence[int]) -> list[float]:
        """Edits of the code, each built by a process that was there before; seconds from each save to its image."""

    def push(self, host: str) -> None:
        """Push to the registry at `host`, into a repository of its own name, tagged 1."""

    def describe(self, host: str) -> None:
        """Write a bill of materials of the image that was pushed to `host`, unless the push has brought one."""

    def build_twice(self) -> tuple[str, str]:
        """Two builds of the same project that reuse nothing of one another."""


@dataclass
class Dockyard:
    """`dockyard build`, the real command, in a home of its own."""

    folder: Path
    name: str = "dockyard"
    how: str = "`dockyard build`: base of Debian packages, wheels, berth and the evidence beside the image"
    _homes: int = 0
    _environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def project(self) -> Path:
        """Where the project is."""
        return self.folder / "project"

    def reset(self) -> None:
        if not self.project.exists():
            shutil.copytree(EXAMPLE, self.project, ignore=shutil.ignore_patterns("*.lock"))
            train(self.project)
        for name in ("predictor.py", "dockyard.toml"):
            shutil.copyfile(EXAMPLE / name, self.project / name)
        (self.project / "dockyard.lock").unlink(missing_ok=True)
        self._new_home()

    def build(self) -> str:
        return str(json.loads(self._dockyard(self.project, "build", "--json"))["digest"])

    def build_by_command(self) -> str:
        return self.build()

    def edit_code(self, number: int) -> None:
        append(self.project / "predictor.py", f"EDIT = {number}\n")

    def edits_in_lasting(self, numbers: Sequence[int]) -> list[float]:
        """`dockyard build --watch`, from the moment before the save to the line that tells the digest."""
        command = [*_COMMAND, "build", "--watch", "--json"]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        with subprocess.Popen(
            command, cwd=self.project, env=self._variables(), stdout=pipe, stderr=nothing, text=True
        ) as watching:
            deadline = threading.Timer(DEADLINE_S, watching.kill)  # a line that does not come ends as one that is empty
            deadline.start()
            try:
                assert watching.stdout is not None
                json.loads(watching.stdout.readline())
                seconds = []
                for number in numbers:
                    time.sleep(_BETWEEN_EDITS_S)
                    started = time.perf_counter()
                    self.edit_code(number)
                    told = json.loads(watching.stdout.readline())
                    seconds.append(time.perf_counter() - started)
                    fresh = [layer["title"] for layer in told["layers"] if not layer["reused"]]
                    if fresh != ["code"]:
                        raise RuntimeError(f"an edit of the code made these layers anew: {fresh}")
            finally:
                watching.send_signal(signal.SIGINT)
                watching.wait(DEADLINE_S)
                deadline.cancel()
            return seconds

    def edit_dependencies(self) -> None:
        file = self.project / "dockyard.toml"
        file.write_text(file.read_text().replace('["onnxruntime"]', f'["onnxruntime", "{ADDED}"]'))

    def push(self, host: str) -> None:
        self._dockyard(self.project, "push", _IMAGE, f"{host}/{self.name}:1")

    def describe(self, host: str) -> None:
        """The push has brought it."""

    def build_twice(self) -> tuple[str, str]:
        self._new_home()
        first = self.build()
        elsewhere = self.folder / "another place" / "copy"
        shutil.copytree(self.project, elsewhere)
        self._new_home()
        self._environment = _ELSEWHERE
        before = os.umask(0o077)
        try:
            second = json.loads(self._dockyard(elsewhere, "build", "--json", "--locked"))["digest"]
        finally:
            os.umask(before)
            self._environment = {}
        return first, str(second)

    def _new_home(self) -> None:
        """Nothing is kept: neither Dockyard's store and caches nor uv's."""
        shutil.rmtree(self.folder / f"home-{self._homes}", ignore_errors=True)
        self._homes += 1

    def _dockyard(self, project: Path, *words: str) -> str:
        command = [*_COMMAND, *words]
        done = subprocess.run(
            command, cwd=project, env=self._variables(), capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"dockyard {' '.join(words)} failed:\n{done.stderr}")
        return done.stdout

    def _variables(self) -> dict[str, str]:
        home = self.folder / f"home-{self._homes}"
        # Python keeps the bytecode of Dockyard itself, as an installed program's is kept.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**kept, "DOCKYARD_HOME": str(home), "UV_CACHE_DIR": str(home / "uv"), **self._environment}


@dataclass
class Dockerfile:
    """A Dockerfile, built by an engine that nobody else uses. `installer` is pip or uv."""

    engine: Engine
    folder: Path
    installer: str

    @property
    def name(self) -> str:
        """`dockerfile-pip` or `dockerfile-uv`, or the same with `-classic`."""
        return f"dockerfile-{self.installer}{'-classic' if self.engine.classic else ''}"

    @property
    def how(self) -> str:
        """How it was built."""
        return f"Dockerfile with {self.installer}, FastAPI and uvicorn; {self.engine.version()}"

    @property
    def image(self) -> str:
        """Its name in the engine."""
        return f"dockyard-benchmark-{self.name}:1"

    def reset(self) -> None:
        put_model(self.folder)
        shutil.copyfile(_SERVER, self.folder / "serve.py")
        (self.folder / "requirements.txt").write_text("onnxruntime\nnumpy\nfastapi\nuvicorn[standard]\n")
        (self.folder / "Dockerfile").write_text(dockerfile(self.installer, buildkit=self.engine.buildkit))
        self.engine.remove(self.image)
        self.engine.prune()

    def build(self) -> str:
        return self.engine.build(self.folder, self.image)

    def build_by_command(self) -> str:
        return self.engine.build_by_command(self.folder, self.image)

    def edit_code(self, number: int) -> None:
        append(self.folder / "serve.py", f"EDIT = {number}\n")

    def edits_in_lasting(self, numbers: Sequence[int]) -> list[float]:
        """The engine lasts: its API."""
        return timed_edits(self, self.build, numbers)

    def edit_dependencies(self) -> None:
        append(self.folder / "requirements.txt", f"{ADDED}\n")

    def push(self, host: str) -> None:
        self.engine.push(self.image, host, self.name)

    def describe(self, host: str) -> None:
        scan(f"registry:{host}/{self.name}:1")

    def build_twice(self) -> tuple[str, str]:
        first, second = (self.engine.build(self.folder, self.image, cache=False) for _ in range(2))
        return first, second


def dockerfile(installer: str, *, buildkit: bool) -> str:
    """The Dockerfile. Without BuildKit there are no mounts: no cache is kept, and uv is copied into the image."""
    mounts, copied = "", ""
    if installer == "uv":
        install = "uv pip install --system --break-system-packages --compile-bytecode -r requirements.txt"
        mounts = f"--mount=from={UV},source=/uv,target=/bin/uv " if buildkit else ""
        copied = "" if buildkit else f"COPY --from={UV} /uv /bin/uv\n"
    else:
        install = "pip install --break-system-packages -r requirements.txt"
    cache = "--mount=type=cache,target=/root/.cache " if buildkit else ""
    return (
        f"FROM {BASE}\n{copied}"
        "ENV UV_LINK_MODE=copy\n"
        "WORKDIR /app\n"
        "COPY requirements.txt .\n"
        f"RUN {cache}{mounts}{install}\n"
        "COPY model.onnx labels.json ./\n"
        "COPY serve.py ./\n"
        "USER 65532\n"
        "EXPOSE 8080\n"
        'CMD ["uvicorn", "serve:app", "--host", "0.0.0.0", "--port", "8080"]\n'
    )


def timed_edits(contender: Contender, build: Callable[[], object], numbers: Sequence[int]) -> list[float]:
    """Seconds of edits and their builds, from the moment before each save."""
    seconds = []
    for number in numbers:
        time.sleep(_BETWEEN_EDITS_S)
        started = time.perf_counter()
        contender.edit_code(number)
        build()
        seconds.append(time.perf_counter() - started)
    return seconds


def scan(image: str) -> None:
    """Have syft read an image and write a bill of materials, as who builds with a Dockerfile must for every build."""
    syft = Path(sys.executable).with_name("syft")
    environment = {**os.environ, "SYFT_REGISTRY_INSECURE_USE_HTTP": "true", "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    command = [str(syft), "scan", image, "--quiet", "-o", "cyclonedx-json"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=DEADLINE_S)


def put_model(folder: Path) -> None:
    """Make a folder with the model in it, and nothing else of the example."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model.onnx").exists():
        shutil.copyfile(EXAMPLE / "train.py", folder / "train.py")
        train(folder)
        (folder / "train.py").unlink()


def train(folder: Path) -> None:
    """Write the model into a folder with the example's `train.py`."""
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, capture_output=True, timeout=60)


def append(file: Path, text: str) -> None:
    """Add to the end of a file."""
    file.write_text(file.read_text() + text)
