"""The part of the preflight that is about the project's own contents: code, weights, variables, secrets.

Each check answers with problems; none executes anything. Called by `builder`, which refuses errors, and by `plan`,
which shows everything.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import cast

import msgspec

from dockyard.build.content import ProjectFiles, berth_folder
from dockyard.build.imports import Import, imports_from
from dockyard.build.modules import distribution_of
from dockyard.build.pickle_facts import FACTS, PickleFacts, is_pickle
from dockyard.build.problem import Problem
from dockyard.build.secret_files import find_secrets
from dockyard.build.wheels import Wheel
from dockyard.build.workshop import Workshop
from dockyard.build.writable import find_unwritable
from dockyard.oci.digest import Digest, hex_of
from dockyard.oci.files import replace_note
from dockyard.spec.load import FILE_NAME, ProjectFolder

_OWN = ("berth", "__future__")


def check_files(folder: ProjectFolder, files: ProjectFiles) -> Iterator[Problem]:
    """What can be said before anything is resolved: secrets, and caches where nothing can be written."""
    names = (*files.code, *files.weights)
    yield from find_secrets(folder, names)
    yield from find_unwritable(folder.project.environment, names)


def check_contents(
    workshop: Workshop,
    code: Sequence[str],
    weights: Mapping[str, Digest],
    wheels: Sequence[Wheel],
    modules: Set[str] | None,
) -> Iterator[Problem]:
    """What follows from the lock: imports and pickles that would fail.

    `modules` are those of wheels and the base; None when they are not known yet, and nothing is said of imports then.
    """
    own = {Path(name).parts[0].partition(".")[0] for name in code if name.endswith((".py", ".so"))}
    known = {*(modules or ()), *own, *sys.stdlib_module_names, *_OWN}
    if modules is not None:
        yield from _check_imports(workshop.project, code, known)
    for name, digest in weights.items():
        if holds_pickle(workshop.project, name):
            facts = pickle_facts(workshop, name, digest)
            yield from _check_packages(workshop.project, name, facts, None if modules is None else known)
            yield from _check_version(workshop.project, name, facts, wheels)


def holds_pickle(folder: ProjectFolder, name: str) -> bool:
    """Whether a file of the weights is a pickle, by its name or by the format that the project names."""
    return folder.project.model.format == "sklearn" or is_pickle(name)


def _check_imports(folder: ProjectFolder, code: Sequence[str], known: set[str]) -> Iterator[Problem]:
    for found in _all_imports(folder, code):
        if found.module in known:
            continue
        likely = distribution_of(found.module)
        if not found.file:
            what = f'model.format = "{folder.project.model.format}" needs the module {found.module}, which no wheel has'
        else:
            when = "" if found.always else " (not on every way through the code)"
            what = f"{found.file}, line {found.line}: imports {found.module}, which nothing in the image has{when}"
        remedy = f"Is it `{likely}`? Add it to [build] requirements in {FILE_NAME}."
        yield Problem("error" if found.always else "note", "missing-module", what, remedy)


def _all_imports(folder: ProjectFolder, code: Sequence[str]) -> Iterator[Import]:
    """The imports of the project's predictor; or those of the backend in berth, with no file."""
    model = folder.project.model
    if model.predictor:
        yield from _once(imports_from(folder.path, code, model.predictor.partition(":")[0]))
        return
    for found in imports_from(berth_folder() / "backends", [f"{model.format}.py"], model.format):
        yield Import(found.module, "", found.line, found.always)


def _once(imports: Iterable[Import]) -> Iterator[Import]:
    """Each module once: the first place that needs it always, or else the first place."""
    found: dict[str, Import] = {}
    for one in imports:
        if one.module not in found or (one.always and not found[one.module].always):
            found[one.module] = one
    yield from found.values()


def _check_packages(folder: ProjectFolder, name: str, facts: PickleFacts, known: set[str] | None) -> Iterator[Problem]:
    for package in facts.packages:
        if package == "__main__":
            what = f"{name} has classes of the script that wrote it (__main__), which the image does not have"
            remedy = "Move those classes into a module of the project, import them there, and write the file again."
            yield Problem("error" if folder.project.model.format else "warning", "pickle", what, remedy)
        elif known is not None and package not in known:
            what = f"{name} has objects of {package}, which nothing in the image has"
            remedy = f"Is it `{distribution_of(package)}`? Add it to [build] requirements in {FILE_NAME}."
            yield Problem("error", "pickle", what, remedy)
    if not facts.whole:
        yield Problem("note", "pickle", f"{name} could not be read to its end, so not all that it needs is known")


def _check_version(folder: ProjectFolder, name: str, facts: PickleFacts, wheels: Sequence[Wheel]) -> Iterator[Problem]:
    """scikit-learn promises to read only what its own version wrote, and berth holds it to that where it loads it."""
    locked = next((wheel.version for wheel in wheels if wheel.name == "scikit-learn"), "")
    for version in facts.sklearn if locked else ():
        if version == locked:
            continue
        what = f"{name} was written by scikit-learn {version}, and {locked} is locked"
        remedy = f'Write "scikit-learn=={version}" under [build] requirements, or train again with {locked}.'
        near = _minor(version) == _minor(locked) and not folder.project.model.format
        yield Problem("warning" if near else "error", "pickle-version", what, remedy)


def _minor(version: str) -> tuple[str, ...]:
    return tuple(re.split(r"[.a-z+-]", version)[:2])


def pickle_facts(workshop: Workshop, name: str, digest: Digest) -> PickleFacts:
    """The facts of a file, remembered by its digest."""
    note = workshop.cache / "pickles" / f"{hex_of(digest)}-{FACTS}.json"
    try:
        found = msgspec.json.decode(note.read_bytes(), type=PickleFacts)
    except (FileNotFoundError, msgspec.MsgspecError):
        with workshop.progress.task(f"Reading what {name} needs"):
            reader = importlib.import_module("dockyard.build.pickles")
            found = cast(PickleFacts, reader.read_pickle(workshop.project.path / name))
        replace_note(note, msgspec.json.encode(found))
    return found
