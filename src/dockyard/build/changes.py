"""What a build would change in the last image of its name, and why.

Pure: it compares a plan with what that image recorded. Called by `cli.plan`; `cli.update` compares two locks with it.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dockyard.build.lock import Lock
from dockyard.build.planner import Plan, PlannedLayer
from dockyard.oci.digest import Digest, hex_of


@dataclass(frozen=True)
class Previous:
    """The last image of a name: its digest, its layers by title, and, when it has provenance, what that recorded.

    `files` are hex digests by name; `settings` is the text of its dockyard.toml.
    """

    digest: Digest
    layers: Mapping[str, Digest]
    files: Mapping[str, str] | None = None
    settings: str = ""
    lock: Lock | None = None


@dataclass(frozen=True)
class Cause:
    """One thing that changes: `kind` is a word for programs, `what` is for people; values where there are such."""

    kind: str
    what: str
    before: str = ""
    after: str = ""


def causes(plan: Plan, previous: Previous, settings: str, weight_patterns: tuple[str, ...]) -> tuple[Cause, ...]:
    """Why the new image would differ from the last one; empty when nothing is known that would make it differ."""
    found: list[Cause] = []
    if plan.lock_state != "locked":
        found.append(Cause("lock", f"dockyard.lock is {plan.lock_state}, so versions were resolved now"))
    if previous.lock is not None:
        found += lock_changes(previous.lock, plan.lock)
    if previous.files is not None:
        found += _files(plan, previous.files, weight_patterns)
        found += _settings(previous.settings, settings)
    before, after = previous.layers.get("berth"), _digest_of("berth", plan.layers)
    if before and before != after:
        found.append(Cause("berth", "the model server is of another version of Dockyard"))
    if not found and (titles := _differing(plan, previous)):
        found.append(Cause("layers", f"these layers differ: {', '.join(titles)}"))
    return tuple(found)


def lock_changes(before: Lock, after: Lock) -> Iterator[Cause]:
    """What differs between two locks, apart from the time at which they were made."""
    if before.python != after.python:
        yield Cause("python", "Python", before.python, after.python)
    if before.base_image != after.base_image:
        yield Cause("base", "the base image", before.base_image[:19], after.base_image[:19])
    old = {package.name: (package.version, package.sha256) for package in (*before.base, *before.system)}
    new = {package.name: (package.version, package.sha256) for package in (*after.base, *after.system)}
    yield from _packages("debian", old, new)
    # An index may have got more files of a version; that is no other version.
    kept = {wheel.name: wheel for wheel in after.wheels}
    known = {wheel.name: set(wheel.hashes) for wheel in before.wheels}
    yield from _packages(
        "python-package",
        {wheel.name: (wheel.version, "") for wheel in before.wheels},
        {name: (wheel.version, _other_files(wheel.hashes, known.get(name))) for name, wheel in kept.items()},
    )


def _other_files(hashes: Sequence[str], known: set[str] | None) -> str:
    """Something when none of the files is known from before; empty when one is."""
    return "" if known is None or known & set(hashes) else " ".join(hashes)


def _packages(kind: str, old: Mapping[str, tuple[str, str]], new: Mapping[str, tuple[str, str]]) -> Iterator[Cause]:
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        same = before is not None and after is not None and before[0] == after[0]
        what = f"{name} (other files of the same version)" if same else name
        yield Cause(kind, what, before[0] if before else "", after[0] if after else "")


def _files(plan: Plan, recorded: Mapping[str, str], weight_patterns: tuple[str, ...]) -> Iterator[Cause]:
    here = {name: hex_of(digest) for name, digest in plan.digests.items()}
    for name in sorted({*here, *recorded}):
        if here.get(name) == recorded.get(name):
            continue
        how = "edited" if name in here and name in recorded else "added" if name in here else "removed"
        weights = name in plan.files.weights or any(fnmatch.fnmatch(name, one) for one in weight_patterns)
        yield Cause("weights" if weights else "code", f"{name} {how}")


def _settings(before: str, after: str) -> Iterator[Cause]:
    old, new = (dict(_flat(tomllib.loads(text))) for text in (before, after))
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            kind = "requirements" if key in ("build.requirements", "build.packages") else "settings"
            yield Cause(kind, key, _shown(old.get(key)), _shown(new.get(key)))


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _digest_of(title: str, layers: tuple[PlannedLayer, ...]) -> Digest | None:
    return next((layer.digest for layer in layers if layer.title == title), None)


def _differing(plan: Plan, previous: Previous) -> list[str]:
    have = set(previous.layers.values())
    return [layer.title for layer in plan.layers if layer.digest not in have]
