"""Resolves and installs the Python dependencies of an image, with uv, from wheels alone.

Wheels are chosen for the image's platform and Python, not this machine's; nothing is built, so no setup script runs.
What would differ between machines (paths in scripts, installer notes) is taken out again. Called by `lock`'s writer
(`builder`) to resolve, and for the dependency layers to install.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from dockyard.build.commands import run
from dockyard.build.files import scratch_folder
from dockyard.build.record import listed, mend, replace
from dockyard.build.target import Target
from dockyard.errors import LockError
from dockyard.oci.files import as_store_error

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>\S+?)(?:\s*;\s*(?P<marker>.+?))?$")
_NO_WHEEL = re.compile(
    r"([A-Za-z0-9._-]+)(?:==\S+)? ha(?:s|ve) no (?:usable )?wheels|Wheels are required for `([^`]+)`"
)
_NOT_FOUND = re.compile(r"[Bb]ecause (\S+) was not found in the package registry")
_NO_SPACE = "(os error 28)"
_SERVING = re.compile(r"(?:\band\s+)?extra\s*==\s*['\"]serve['\"]")
_CLIENT = re.compile(r"error sending request|client error|connection|network|dns|timed? ?out", re.IGNORECASE)


@dataclass(frozen=True)
class Wheel:
    """One pinned distribution: name, version and the SHA-256 of each file an index may serve for it."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def line(self) -> str:
        """This pin as a line of a requirements file."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{value}" for value in self.hashes)])


def normalized(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def berth_requirements() -> tuple[str, ...]:
    """What berth needs at run time, from the one list in this distribution's metadata (extra `serve`)."""
    found = (text.partition(";") for text in _own_requirements())
    serving = ((name.strip(), _SERVING.sub("", marker).strip()) for name, _, marker in found if _SERVING.search(marker))
    return tuple(sorted(f"{name} ; {marker}" if marker else name for name, marker in serving))


def _own_requirements() -> Sequence[str]:
    """The requirements in this distribution's metadata, with their markers.

    Read off the file where it is found, since importlib.metadata costs every build a hundredth of a second to import.
    """
    for place in filter(None, sys.path):
        for file in Path(place).glob("dockyard-*.dist-info/METADATA"):
            head = file.read_text(encoding="utf-8").partition("\n\n")[0]
            return re.findall(r"^Requires-Dist:[ \t]*(\S.*?)[ \t]*$", head, re.MULTILINE)
    return importlib.import_module("importlib.metadata").requires("dockyard") or ()


def resolve_wheels(
    requirements: Sequence[str], files: Sequence[Path], target: Target, previous: Sequence[Wheel], scratch: Path
) -> tuple[Wheel, ...]:
    """Pins for `requirements` and requirement `files` on `target`; versions in `previous` stay where they fit."""
    with scratch_folder(scratch) as folder:
        asked = folder / "requirements.in"
        asked.write_text("".join(f"{line}\n" for line in requirements))
        answer = folder / "requirements.txt"
        if previous:
            answer.write_text("".join(f"{wheel.line()}\n" for wheel in previous))
        command = [
            *_uv("pip", "compile"), "--generate-hashes", "--no-header", "--no-annotate", "--no-build",
            "--python-platform", target.wheel_platform, "--python-version", target.python,
            "--output-file", str(answer), str(asked), *(str(file) for file in files),
        ]  # fmt: skip
        done = run(command, environment=os.environ, deadline=300)
        if done.code:
            raise _unresolvable(done.stderr, target)
        return _parse(answer.read_text())


def install_wheels(wheels: Sequence[Wheel], target: Target, folder: Path, scratch: Path) -> None:
    """Install `wheels` into `folder`, every file checked against its hash, and take out what names this machine."""
    with scratch_folder(scratch) as work:
        pins = work / "requirements.txt"
        pins.write_text("".join(f"{wheel.line()}\n" for wheel in wheels))
        command = [
            *_uv("pip", "install"), "--require-hashes", "--no-build", "--no-deps", "--no-installer-metadata",
            "--no-compile-bytecode", "--link-mode", "hardlink", "--target", str(folder),
            "--python-platform", target.wheel_platform, "--python-version", target.python, "--requirement", str(pins),
        ]  # fmt: skip
        done = run(command, environment=os.environ, deadline=900)
    if done.code and _NO_SPACE in done.stderr:
        raise as_store_error(OSError(errno.ENOSPC, ""), folder)
    if done.code:
        raise LockError(
            "the locked wheels could not be installed",
            detail=_trimmed(done.stderr),
            remedy="Check the network and the package index; `dockyard build --upgrade` locks what it has now.",
        )
    (folder / ".lock").unlink(missing_ok=True)
    for records in sorted(folder.glob("*.dist-info/RECORD")):
        _neutral_scripts(folder, records)


def satisfied(python: Path, requirements: Sequence[str], files: Sequence[Path], scratch: Path) -> bool:
    """Whether all of these are installed for this interpreter. Asks no index."""
    with scratch_folder(scratch) as work:
        asked = work / "requirements.in"
        asked.write_text("".join(f"{line}\n" for line in requirements))
        command = [find_uv_bin(), "pip", "install", "--dry-run", "--offline", "--color", "never"]
        for file in (asked, *files):
            command += ["--requirement", str(file)]
        done = run([*command, "--python", str(python)], environment=os.environ, deadline=60)
    return done.code == 0 and not re.search(r"^ [-+~] ", done.stdout + done.stderr, re.M)


def make_environment(folder: Path, version: str, requirements: Sequence[str], files: Sequence[Path]) -> None:
    """A virtual environment of this machine in `folder`, with these requirements; LockError when that fails.

    `version` is the Python it should have (`3.11`); where there is none, it has the one that runs now.
    """
    found = run([*_uv("python", "find"), "--system", version], environment=os.environ, deadline=60)
    python = found.stdout.strip() if found.code == 0 else sys.executable
    made = run([*_uv("venv"), "--python", python, str(folder)], environment=os.environ, deadline=60)
    if made.code:
        raise LockError(f"no Python environment could be made in {folder}", detail=_trimmed(made.stderr))
    install_here(folder / "bin" / "python", requirements, files, folder)


def install_here(python: Path, requirements: Sequence[str], files: Sequence[Path], work: Path, *words: str) -> None:
    """Install requirements for an interpreter of this machine, with bytecode; LockError when that fails."""
    asked = work / "requirements.in"
    asked.write_text("".join(f"{line}\n" for line in requirements))
    command = [*_uv("pip", "install"), "--python", str(python), "--compile-bytecode", *words]
    for file in (asked, *files):
        command += ["--requirement", str(file)]
    done = run(command, environment=os.environ, deadline=900)
    if done.code:
        raise LockError(
            "the project's requirements could not be installed",
            detail=_trimmed(done.stderr),
            remedy="Correct `requirements` under [build] in dockyard.toml, or name an environment with --python.",
        )


def _uv(*words: str) -> list[str]:
    return [find_uv_bin(), *words, "--quiet", "--no-progress", "--no-python-downloads", "--color", "never"]


def _parse(text: str) -> tuple[Wheel, ...]:
    wheels = []
    for block in re.split(r"\n(?=\S)", text.replace("\\\n", " ").strip()):
        words = block.strip()
        if not words or words.startswith("#"):
            continue
        pin, *hashes = re.split(r"\s+--hash=sha256:", words)
        match = _PIN.match(pin.strip())
        if match is None:
            raise LockError(
                f"the requirement `{pin.strip()}` cannot be locked",
                remedy="Requirements must come from a package index, by name: no URLs, no local paths.",
            )
        wheels.append(Wheel(match["name"].lower(), match["version"], tuple(sorted(hashes))))
    return tuple(sorted(wheels, key=lambda wheel: wheel.name))


def _unresolvable(stderr: str, target: Target) -> LockError:
    where = f"{target.platform} with Python {target.python}"
    text = " ".join(stderr.split())
    if found := _NO_WHEEL.search(text):
        name = found[1] or found[2]
        return LockError(
            f"{name} has no wheel for {where}",
            detail=_trimmed(stderr),
            remedy=f"Name a version of {name} that has one, or build its wheel and serve it from your own index.",
        )
    if found := _NOT_FOUND.search(text):
        return LockError(
            f"the package index has no {found[1]}",
            detail=_trimmed(stderr),
            remedy="Is the name right? Requirements stand under [build] in dockyard.toml.",
        )
    if "No solution found" not in text and _CLIENT.search(text):
        return LockError(
            "the package index could not be reached",
            detail=_trimmed(stderr),
            remedy="Check the network, proxy and index settings; a build with a complete lock and cache needs none.",
        )
    return LockError(
        f"the Python requirements cannot be resolved for {where}",
        detail=_trimmed(stderr),
        remedy="Correct `requirements` under [build] in dockyard.toml.",
    )


def _trimmed(stderr: str) -> str:
    lines = [line.rstrip() for line in stderr.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[:12])


def _neutral_scripts(folder: Path, records: Path) -> None:
    """Point a distribution's scripts at the image's Python, and mend their lines in its RECORD."""
    changed: dict[str, bytes] = {}
    for path in listed(records):
        is_script = "bin" in Path(path).parts and (folder / path).is_file()
        if is_script and (content := _neutral_script((folder / path).read_bytes())):
            changed[path] = content
            replace(folder / path, content)
    mend(records, (), changed)


def _neutral_script(content: bytes) -> bytes | None:
    """A script with the image's Python in its first line; None if it is no Python script."""
    lines = content.split(b"\n")
    if not lines[0].startswith(b"#!"):
        return None
    if b"python" in lines[0]:
        return b"\n".join([b"#!/usr/bin/python3", *lines[1:]])
    if lines[0].startswith(b"#!/bin/sh") and len(lines) > 2 and lines[1].startswith(b"'''exec'"):
        return b"\n".join([b"#!/usr/bin/python3", *lines[3:]])
    return None
