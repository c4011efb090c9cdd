"""The Python that serves a project on this machine, outside any image: the project's own, or one made for it.

The user's environments are never changed. What berth needs and one of them lacks goes into a folder beside it; an
environment made for a project is kept in the cache, under what it was made of. Called by `cli.dev`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dockyard.build.commands import run
from dockyard.build.content import berth_folder
from dockyard.build.lock import read_lock
from dockyard.build.request import Request, request_of
from dockyard.build.target import host_architecture
from dockyard.build.wheels import berth_requirements, install_here, make_environment, satisfied
from dockyard.errors import ProjectError
from dockyard.spec.load import ProjectFolder

OLDEST = (3, 11)
_ANOTHER = "Name another one with --python."
_PROBE = """\
import importlib.metadata, json, sys
found = (each.metadata["Name"] for each in importlib.metadata.distributions())
names = sorted({name.lower().replace("_", "-") for name in found if name})
print(json.dumps({"version": sys.version_info[:2], "names": names}))
"""
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Interpreter:
    """A Python of this machine that can run berth with a project; `paths` go before its own."""

    python: Path
    paths: tuple[Path, ...]
    why: str


@dataclass(frozen=True)
class Wanted:
    """Whose Python is wanted: the one named, and the variables of the shell."""

    python: str
    variables: Mapping[str, str]


def interpreter_for(folder: ProjectFolder, wanted: Wanted, cache: Path, say: Callable[[str], None]) -> Interpreter:
    """Choose or make the Python for a project; ProjectError or LockError when there is none that fits."""
    request = request_of(folder)
    own = _own(folder.path, wanted)
    if own is not None:
        python, why = own
        return Interpreter(python, (_berth(cache), *_missing(python, request, cache, say)), why)
    running = Path(sys.executable)
    if satisfied(running, request.requirements, request.files, cache / "work"):
        return Interpreter(running, (_berth(cache),), "the Python of dockyard, which has all requirements")
    return Interpreter(_made(folder, request, cache, say), (_berth(cache),), "an environment made for this project")


def _own(project: Path, wanted: Wanted) -> tuple[Path, str] | None:
    """The environment that the user has for the project, and how it was found."""
    active = wanted.variables.get("VIRTUAL_ENV", "")
    if wanted.python:
        return _executable(Path(wanted.python).expanduser().absolute()), "named by --python"
    if active and Path(active).resolve() != Path(sys.prefix).resolve() and (Path(active) / "bin" / "python").exists():
        return Path(active) / "bin" / "python", "the active environment"
    if (project / ".venv" / "bin" / "python").exists():
        return project / ".venv" / "bin" / "python", "the project's .venv"
    return None


def _executable(path: Path) -> Path:
    found = path / "bin" / "python" if path.is_dir() else path
    if not found.is_file():
        raise ProjectError(
            f"--python {path} is no Python", remedy="Name an interpreter, or the folder of an environment."
        )
    return found


def _missing(python: Path, request: Request, cache: Path, say: Callable[[str], None]) -> tuple[Path, ...]:
    """A folder with what berth needs and this environment lacks; nothing when it lacks nothing."""
    version, names = _probe(python)
    if version < OLDEST:
        raise ProjectError(
            f"{python} is Python {version[0]}.{version[1]}, and berth needs {OLDEST[0]}.{OLDEST[1]} or newer",
            remedy="Make the environment anew, or name another one with --python.",
        )
    needed = berth_requirements()
    there = [line for line in needed if _name(line) in names]
    if not satisfied(python, there, (), cache / "work"):
        raise ProjectError(
            f"{python} has another version of what berth needs: {', '.join(there)}",
            remedy="Upgrade it there, or name another environment with --python.",
        )
    if not satisfied(python, request.own, request.files, cache / "work"):
        say(f"{python} does not have all requirements of the project, or not in the versions that it asks for")
    lacking = [line for line in needed if line not in there]
    if not lacking:
        return ()
    place = cache / "dev" / "beside" / _key([str(version), *lacking])

    def make() -> None:
        say(f"{python} lacks {', '.join(map(_name, lacking))}, which berth needs: kept beside it in {place}")
        place.mkdir(parents=True)
        install_here(python, lacking, (), place, "--no-deps", "--target", str(place))

    _once(place, make)
    return (place,)


def _probe(python: Path) -> tuple[tuple[int, int], frozenset[str]]:
    done = run([str(python), "-I", "-c", _PROBE], environment={}, deadline=60, missing=_ANOTHER)
    try:
        found = json.loads(done.stdout)
        return (found["version"][0], found["version"][1]), frozenset(found["names"])
    except (ValueError, KeyError) as error:
        raise ProjectError(f"{python} does not run as a Python", detail=done.stderr[-500:], remedy=_ANOTHER) from error


def _made(folder: ProjectFolder, request: Request, cache: Path, say: Callable[[str], None]) -> Path:
    """The Python of an environment with the project's requirements and berth's, from the lock where there is one."""
    lock = read_lock(folder.path, f"linux/{host_architecture()}")
    if lock is not None and lock.asked == request.digest:
        version, source = lock.python, "dockyard.lock"
        requirements: Sequence[str] = [wheel.line() for wheel in lock.wheels]
        files: Sequence[Path] = ()
    else:
        version, source = f"{sys.version_info[0]}.{sys.version_info[1]}", "its requirements"
        requirements, files = request.requirements, request.files
    place = cache / "dev" / "environments" / _key([request.digest, version, sys.base_prefix, *requirements])

    def make() -> None:
        say(f"making a Python environment for this project from {source}, once, in {place}")
        started = time.monotonic()
        make_environment(place, version, requirements, files)
        say(f"the environment was made in {time.monotonic() - started:.1f} s")

    _once(place, make)
    return place / "bin" / "python"


def _once(place: Path, make: Callable[[], None]) -> None:
    """Make a folder unless it is whole already; who comes second waits, and what was left half made is removed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    whole = place.with_name(place.name + ".whole")
    with place.with_name(place.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if whole.exists() and place.is_dir():
            return
        shutil.rmtree(place, ignore_errors=True)
        make()
        whole.touch()


def _berth(cache: Path) -> Path:
    """A folder with berth in it, and nothing else that is installed beside it."""
    package = berth_folder()
    place = cache / "dev" / "berth" / _key([str(package)])
    place.mkdir(parents=True, exist_ok=True)
    link = place / "berth"
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(package)
    return place


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    return found[0].lower().replace("_", "-") if found else requirement


def _key(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
