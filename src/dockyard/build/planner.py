"""What a build would do, without doing it: what is resolved, each layer's bytes, what changed and why.

Nothing is written to the project, and nothing fetched but metadata. Called by `cli.plan`, which knows the last image.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dockyard.build.advice import Subject, advice
from dockyard.build.base import BaseSource
from dockyard.build.builder import Options, draft_lock, resolve, source_of
from dockyard.build.content import LARGE_CODE, ContentBuilder, ProjectFiles, berth_folder, divide_files, folder_sizes
from dockyard.build.contents_check import check_contents, check_files
from dockyard.build.debian_base import packages_key, system_key
from dockyard.build.dependencies import DependencyBuilder
from dockyard.build.layers import BuiltLayer
from dockyard.build.lock import Lock, read_lock
from dockyard.build.modules import modules_of_system
from dockyard.build.problem import Problem
from dockyard.build.request import Request, request_of
from dockyard.build.wheel_sizes import wheel_sizes
from dockyard.build.workshop import Workshop
from dockyard.errors import ImageNotFoundError, LockError
from dockyard.oci.digest import Digest
from dockyard.oci.image import Platform

LockState = Literal["locked", "missing", "out of date", "to be upgraded"]
_TAR_BLOCK = 512
# Debian packs tighter than layers are packed; measured on the default base.
_REPACKED = 1.3


@dataclass(frozen=True)
class PlannedLayer:
    """A layer that the image will have. One that exists has a digest, and its size is exact; of others the size is
    estimated, and None when nothing is known of it.
    """

    title: str
    size: int | None
    digest: Digest | None = None


@dataclass(frozen=True)
class Plan:
    """What a build would make, from what, and what there is to say of it."""

    name: str
    platform: str
    lock_state: LockState
    lock: Lock
    layers: tuple[PlannedLayer, ...]
    files: ProjectFiles
    digests: Mapping[str, Digest]
    problems: tuple[Problem, ...]
    left_out: tuple[str, ...] = ()
    """What wheels bring and the image will not have, in words."""

    @property
    def fails(self) -> bool:
        """Whether the build would be refused."""
        return any(problem.level == "error" for problem in self.problems)


def make_plan(workshop: Workshop, options: Options) -> Plan:
    """Plan the build of a project; LockError when it cannot be resolved."""
    files = divide_files(workshop.project)
    request = request_of(workshop.project)
    source = source_of(workshop, request)
    before = read_lock(workshop.project.path, workshop.platform)
    state = _state(before, request, options)
    lock = before if before is not None and state == "locked" else _resolved(source, workshop, before, options)
    content = ContentBuilder(workshop, lock.base_digest)
    weights = content.weight_digests(files)
    small = sum(folder_sizes(workshop.project.path, files.code).values()) <= LARGE_CODE
    code = content.code_digests(files) if small else {}
    target = workshop.target(lock)
    builder = DependencyBuilder(workshop)
    dependencies = builder.find(lock.wheels, target, lock.base_digest)
    sizes = wheel_sizes(lock.wheels, target, workshop.scratch)
    layers = (
        *_base_layers(workshop, lock),
        *_system_layers(workshop, lock),
        *_dependency_layers(dependencies, sizes),
        *_content_layers(content, weights, code, files),
    )
    modules = _modules(workshop, source, lock, dependencies)
    problems = (
        *check_files(workshop.project, files),
        *check_contents(workshop, files.code, weights, lock.wheels, modules),
        *advice(Subject(workshop.project, files, request, lock, sizes)),
    )
    digests = {**weights, **code}
    told, left_out = _sorted(problems), builder.trimming.left_out
    return Plan(options.name, workshop.platform, state, lock, layers, files, digests, told, left_out)


def _state(before: Lock | None, request: Request, options: Options) -> LockState:
    if before is None:
        return "missing"
    if options.upgrade:
        return "to be upgraded"
    return "locked" if before.asked == request.digest else "out of date"


def _resolved(source: BaseSource, workshop: Workshop, before: Lock | None, options: Options) -> Lock:
    """What a build would lock now."""
    base = source.request.base
    if base != "debian" and not base.startswith(("oci:", "archive:")):
        try:
            workshop.layout.resolve(base, Platform("linux", workshop.architecture))
        except ImageNotFoundError as error:
            raise LockError(
                f"the base {base} is not here, and what is in it decides what is resolved",
                remedy=f"Fetch it with `dockyard pull {base}`, or build.",
            ) from error
    return resolve(source, workshop, before, options, draft_lock(source, workshop, before, options))


def _of_layer(layer: BuiltLayer) -> PlannedLayer:
    return PlannedLayer(layer.title, layer.blob.descriptor.size, layer.blob.descriptor.digest)


def _base_layers(workshop: Workshop, lock: Lock) -> Iterator[PlannedLayer]:
    if not lock.base_image:
        found = workshop.layers.find(packages_key("debian", lock.base, workshop.codec))
        size = round(_REPACKED * sum(package.size for package in lock.base))
        yield _of_layer(found) if found else PlannedLayer("Debian and Python", size)
        return
    try:
        image = workshop.layout.resolve(lock.base_image)
    except ImageNotFoundError:
        yield PlannedLayer("base", None)
        return
    yield from (PlannedLayer("base", layer.size, layer.digest) for layer in image.layers)


def _system_layers(workshop: Workshop, lock: Lock) -> Iterator[PlannedLayer]:
    if lock.system:
        found = workshop.layers.find(system_key(lock.system, workshop.codec))
        size = round(_REPACKED * sum(package.size for package in lock.system))
        yield _of_layer(found) if found else PlannedLayer("Debian packages", size)


def _dependency_layers(found: Sequence[BuiltLayer], sizes: Mapping[str, int]) -> Iterator[PlannedLayer]:
    if found:
        yield from map(_of_layer, found)
    else:
        yield PlannedLayer("Python dependencies", sum(sizes.values()) or None)


def _content_layers(
    content: ContentBuilder, weights: Mapping[str, Digest], code: Mapping[str, Digest], files: ProjectFiles
) -> Iterator[PlannedLayer]:
    layers, folder = content.workshop.layers, content.workshop.project.path
    for group in content.weight_groups(weights):
        size = sum((folder / name).stat().st_size + 2 * _TAR_BLOCK for name in group.names)
        found = layers.find(group.key)
        yield _of_layer(replace(found, title=group.title)) if found else PlannedLayer(group.title, size)
    berth = content.berth_group()
    found = layers.find(berth.key)
    yield _of_layer(found) if found else PlannedLayer("berth", _packed(berth_folder(), berth.names))
    if not code and files.code:
        yield PlannedLayer("code", sum(folder_sizes(folder, files.code).values()))
        return
    group = content.code_group(code)
    found = layers.find(group.key)
    yield _of_layer(found) if found else PlannedLayer("code", _packed(folder, group.names))


def _packed(folder: Path, names: Sequence[str]) -> int:
    """About how large files are when packed; Python's with their bytecode, which is about as large again."""
    return sum(
        (len(zlib.compress((folder / name).read_bytes(), 1)) + _TAR_BLOCK // 4) * (2 if name.endswith(".py") else 1)
        for name in names
    )


def _modules(workshop: Workshop, source: BaseSource, lock: Lock, dependencies: Sequence[BuiltLayer]) -> set[str] | None:
    """The modules that the image will have; None when a part that may bring some has not been made yet."""
    system = workshop.layers.find(system_key(lock.system, workshop.codec)) if lock.system else None
    if not dependencies or (lock.system and system is None):
        return None
    found = {name for layer in (*dependencies, *((system,) if system else ())) for name in layer.modules}
    if not lock.base_image:
        return found | set(modules_of_system(workshop.trees / packages_key("debian", lock.base, "none")))
    try:
        workshop.layout.resolve(lock.base_image)
    except ImageNotFoundError:
        return None
    return found | set(modules_of_system(source.make(lock).root))


def _sorted(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    order = ("error", "warning", "note")
    return tuple(sorted(problems, key=lambda problem: order.index(problem.level)))
