"""The bytecode of wheels, compiled once for each distribution and Python and found again for other sets of wheels.

One distribution more or another version of one costs its own compilation, not everybody's. Bytecode can depend on what
its process compiled before, so each distribution has a process of its own: what comes out is a function of the wheel
and the base alone. Called by `dependencies`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dockyard.build.bytecode import Interpreter, compile_into, sources_to_compile
from dockyard.build.files import scratch_folder, settle
from dockyard.build.installed import Part
from dockyard.build.layers import layer_key
from dockyard.build.wheels import Wheel, normalized
from dockyard.build.workshop import Workshop
from dockyard.oci.codecs import usable_threads

_RECIPE = 1


@dataclass(frozen=True)
class WheelCompiler:
    """Compiles what was installed into `folder`, which will be `inside` in the image, from `wheels`.

    `compiler` stands for the Python that compiles: the digest of its base.
    """

    workshop: Workshop
    folder: Path
    inside: str
    wheels: Sequence[Wheel]
    compiler: str

    def compile(self, interpreter: Interpreter, owned: Mapping[str, Collection[str]], parts: Sequence[Part]) -> None:
        """Put bytecode beside each source of `parts` that is not a test; `owned` are the files of distributions."""
        pins = {normalized(wheel.name): wheel.line() for wheel in self.wheels}
        with ThreadPoolExecutor(usable_threads(), "bytecode") as pool:
            made = [
                pool.submit(self._compiled, pins.get(name, ""), sources, interpreter)
                for name, sources in self._groups(owned, parts).items()
            ]
            for one in made:
                one.result()

    def _groups(self, owned: Mapping[str, Collection[str]], parts: Sequence[Part]) -> Mapping[str, list[str]]:
        """Sources by distribution; below "" those that none has for itself, whose content no wheel's hash tells."""
        owner = {path: name for name, paths in owned.items() for path in paths}
        groups: dict[str, list[str]] = {}
        for source in sources_to_compile(self.folder):
            path = source.relative_to(self.folder).as_posix()
            if any(part.holds(path) for part in parts):
                groups.setdefault(owner.get(path, ""), []).append(path)
        return groups

    def _compiled(self, pin: str, sources: Sequence[str], interpreter: Interpreter) -> None:
        if not pin:
            self._run(interpreter, sources, self.folder)
            return
        key = layer_key(
            "wheel bytecode",
            "none",
            recipe=_RECIPE,
            wheel=pin,
            sources=sources,
            inside=self.inside,
            architecture=self.workshop.architecture,
            compiler=self.compiler,
        )
        place = self.workshop.trees / key
        if not place.is_dir():
            with scratch_folder(self.workshop.trees) as work:
                made = work / "made"
                made.mkdir()
                self._run(interpreter, sources, made)
                settle(made, place)
        place.touch()  # see upkeep.py
        shutil.copytree(place, self.folder, copy_function=_link, dirs_exist_ok=True)

    def _run(self, interpreter: Interpreter, sources: Sequence[str], into: Path) -> None:
        """Compile to below `into`. Wheels may hold files for other Pythons; what does not compile is never imported."""
        compile_into(interpreter, [(self.folder / path, f"{self.inside}/{path}", into / path) for path in sources])


def _link(source: str, target: str) -> None:
    """The same file under another name; a copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
