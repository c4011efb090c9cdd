"""BentoML's way into an image: `bentoml build`, then the Dockerfile that it generates, built by the engine.

That is what `bentoml containerize` does by the `docker` command; the command of this release needs a plugin (buildx)
that Debian does not have, so the engine's API is asked for the same build. Its base image is the one of the other
Dockerfiles. BentoML itself is installed into an environment of the benchmarks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.images.contenders import ADDED, DEADLINE_S, append, put_model, scan, timed_edits
from benchmarks.images.debian_image import BASE
from benchmarks.images.engine import Engine
from benchmarks.serving.environments import cache, environment

_VERSION = "1.4.40"
_SERVICE = Path(__file__).parent / "dockerfile" / "bento_service.py"
_BENTOFILE = f"""\
service: "service:FileType"
include: [service.py, model.onnx, labels.json]
python:
  packages: [onnxruntime, numpy]
docker:
  base_image: {BASE}
"""


@dataclass
class BentoML:
    """`bentoml build`, and the engine."""

    engine: Engine
    folder: Path
    name: str = "bentoml"
    image: str = "dockyard-benchmark-bentoml:1"

    @property
    def how(self) -> str:
        """How it was built."""
        return f"BentoML {_VERSION}: `bentoml build`, and its Dockerfile on the same base; {self.engine.version()}"

    def reset(self) -> None:
        put_model(self.folder)
        shutil.copyfile(_SERVICE, self.folder / "service.py")
        (self.folder / "bentofile.yaml").write_text(_BENTOFILE)
        shutil.rmtree(self._home, ignore_errors=True)
        self._bentoml("--version")  # installed before the clock starts
        self.engine.remove(self.image)
        self.engine.prune()

    def build(self) -> str:
        return self._build(cache=True)

    def build_by_command(self) -> str:
        return self.build()

    def edit_code(self, number: int) -> None:
        append(self.folder / "service.py", f"EDIT = {number}\n")

    def edits_in_lasting(self, numbers: Sequence[int]) -> list[float]:
        """`bentoml build` has no process that stays; its command, then the engine's API."""
        return timed_edits(self, self.build, numbers)

    def edit_dependencies(self) -> None:
        file = self.folder / "bentofile.yaml"
        file.write_text(file.read_text().replace("numpy]", f"numpy, {ADDED}]"))

    def push(self, host: str) -> None:
        self.engine.push(self.image, host, self.name)

    def describe(self, host: str) -> None:
        scan(f"registry:{host}/{self.name}:1")

    def build_twice(self) -> tuple[str, str]:
        return self._build(cache=False), self._build(cache=False)

    @property
    def _home(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-home")

    def _build(self, *, cache: bool) -> str:
        tag = self._bentoml("build", "--output", "tag").strip().rpartition("__tag__:")[2]
        bento = self._home / "bentos" / tag.replace(":", "/")
        return self.engine.build(bento, self.image, cache=cache, dockerfile="env/docker/Dockerfile")

    def _bentoml(self, *words: str) -> str:
        python = environment([f"bentoml=={_VERSION}", "uv", "pip", "onnxruntime", "numpy"], cache() / "bentoml.log")
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        variables |= {"BENTOML_HOME": str(self._home), "BENTOML_DO_NOT_TRACK": "1"}
        command = [str(python.with_name("bentoml")), *words]
        done = subprocess.run(
            command, cwd=self.folder, env=variables, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"bentoml {' '.join(words)} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
        return done.stdout
