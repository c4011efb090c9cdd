"""A build, from a project folder to an image in the store. `build` reads like the recipe.

Called by `cli.build`; every step lives in the module it names. Nothing that belongs to the user is executed.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import cast

from dockyard.build.assemble import Parts, store_image
from dockyard.build.base import Base, BaseSource
from dockyard.build.bytecode import Interpreter
from dockyard.build.content import ContentBuilder, ProjectFiles, find_files
from dockyard.build.contents_check import check_contents, check_files
from dockyard.build.debian_base import DebianBase
from dockyard.build.dependencies import DependencyBuilder
from dockyard.build.layers import BuiltLayer, reused
from dockyard.build.lock import Lock, now, read_lock, write_locks
from dockyard.build.modules import modules_of_system
from dockyard.build.preflight import Findings, check, refuse
from dockyard.build.problem import Problem, refuse_errors
from dockyard.build.request import Request, request_of
from dockyard.build.signatures import signature_label
from dockyard.build.wheels import resolve_wheels
from dockyard.build.workshop import Workshop
from dockyard.errors import LockError
from dockyard.oci.digest import Digest
from dockyard.oci.image import Image

_LOCKED_REMEDY = "Run `dockyard build` without --locked, look at the change and commit dockyard.lock."


@dataclass(frozen=True)
class Options:
    """How to build: `locked` refuses to change the lock, `upgrade` takes the newest versions, `name` tags the image.

    Without `fix` the Debian packages that the preflight misses are named, not added.

    `listed` gives the image its name in the store; else it is part of an index, which gets the name, or waits for one.
    `lock` stands for the one in the project's folder, and nothing is written there then.
    """

    name: str
    locked: bool = False
    upgrade: bool = False
    listed: bool = True
    lock: Lock | None = None
    fix: bool = True


@dataclass(frozen=True)
class Built:
    """What a build made: the image, its layers (lowest first), what the preflight found, and how long it took (s).

    `weights` and `code` are the project's files that went in, by their digests; `notes` is what the preflight thinks
    of them.
    """

    name: str
    image: Image
    layers: tuple[BuiltLayer, ...]
    findings: Findings
    lock: Lock
    weights: Mapping[str, Digest]
    code: Mapping[str, Digest]
    lock_changed: bool
    notes: tuple[Problem, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class _Settled:
    """The lock with which the preflight passed, what lies below the project's own layers, and what was found there."""

    lock: Lock
    base: Base
    system: tuple[BuiltLayer, ...]
    dependencies: tuple[BuiltLayer, ...]
    findings: Findings
    modules: Set[str] = frozenset()
    """Those of others that the image's code can import."""


@dataclass(frozen=True)
class _Own:
    """The project's own layers, its files by digest, and what the preflight thinks of them."""

    layers: tuple[BuiltLayer, ...]
    weights: Mapping[str, Digest]
    code: Mapping[str, Digest]
    notes: tuple[Problem, ...]


Attach = Callable[[Workshop, Built], object]


def _nothing(_: Workshop, __: Built) -> None:
    """Attach nothing."""


def build(workshop: Workshop, options: Options, attach: Attach = _nothing) -> Built:
    """Build the project's image, give it its names in the store, and write the lock if it is new.

    `attach` adds to the image what else belongs to it, before it can be found by name.
    """
    started = time.monotonic()
    if workshop.memory.recall("swept", workshop.cache) is None:
        workshop.sweep()
        workshop.memory.keep("swept", workshop.cache, True)
    files = find_files(workshop.project)
    refuse_errors(check_files(workshop.project, files))
    before = options.lock or read_lock(workshop.project.path, workshop.platform)
    try:
        settled = _settled(workshop, before, options, files)
        own = _own_layers(workshop, settled, files)
    finally:
        workshop.memory.spare.close()
    built = _listed(
        workshop,
        lambda: replace(_assembled(workshop, settled, own, files, options.name), lock_changed=settled.lock != before),
        attach,
        _names(workshop, options),
    )
    if built.lock_changed and options.lock is None:
        write_locks(workshop.project.path, {workshop.platform: settled.lock})
    return replace(built, seconds=time.monotonic() - started)


def _listed(workshop: Workshop, make: Callable[[], Built], attach: Attach, names: Sequence[str]) -> Built:
    """Store the image, attach what belongs to it and give it its names, all at once; or leave no image."""
    built = None
    try:
        with workshop.layout.at_once():
            built = make()
            attach(workshop, built)
            for name in names:
                workshop.layout.add(built.image, name)
    except BaseException:
        if built is not None:
            workshop.layout.forget(built.image)
        raise
    return built


def _settled(workshop: Workshop, before: Lock | None, options: Options, files: ProjectFiles) -> _Settled:
    """What lies below the project's own layers: what the last build of this process settled, if that is still asked
    for and still there.
    """
    asked = (request_of(workshop.project), workshop.project.project.build, options.fix, options.locked)
    known: _Settled | None = workshop.memory.recall("settled", asked)
    if known is not None and known.lock == before and not options.upgrade and _is_there(known, workshop):
        return known
    settled = _settle(workshop, before, options, compiles=_compiles(workshop, before, files))
    workshop.memory.keep("settled", asked, _as_reused(settled))
    return settled


def _as_reused(settled: _Settled) -> _Settled:
    """The same for another build, which makes none of its layers."""
    base = replace(settled.base, layers=reused(settled.base.layers))
    return replace(settled, base=base, system=reused(settled.system), dependencies=reused(settled.dependencies))


def _is_there(settled: _Settled, workshop: Workshop) -> bool:
    """Whether all its layers are in the store, and the trees of base and Python."""
    layers = (*settled.base.layers, *settled.system, *settled.dependencies)
    trees = {settled.base.root, settled.base.interpreter.root}
    if not all(workshop.layout.blobs.has(layer.blob.descriptor.digest) for layer in layers):
        return False
    if not all(tree.is_dir() for tree in trees):
        return False
    for tree in trees:
        tree.touch()  # see upkeep.py
    return True


def _compiles(workshop: Workshop, lock: Lock | None, files: ProjectFiles) -> bool:
    """Whether it is sure before anything is made that code is to be compiled."""
    if lock is None:
        return False
    content = ContentBuilder(workshop, lock.base_digest)
    return workshop.layers.find(content.code_group(content.code_digests(files)).key) is None


def _settle(workshop: Workshop, before: Lock | None, options: Options, *, compiles: bool) -> _Settled:
    """Resolve what is not locked, make the base and the layers of dependencies, and look whether they fit together.

    If the build `compiles`, the base's Python is started as soon as it is there.
    """
    request = request_of(workshop.project)
    source = source_of(workshop, request)
    locked = _locked(before, request, options, workshop.platform)
    draft = locked or draft_lock(source, workshop, before, options)

    def find() -> Interpreter:
        found = source.interpreter(draft)
        if compiles:
            workshop.memory.spare.prepare(found)
        return found

    with ThreadPoolExecutor(1) as pool:
        # The base needs nothing that is still to be resolved, and wheels need no more of it than its Python.
        interpreter = pool.submit(find)
        making = pool.submit(source.make, draft)
        lock = locked or resolve(source, workshop, before, options, draft)
        dependencies = _dependencies(workshop, lock, interpreter)
        base = making.result()
    settled = _preflight(source, _Settled(lock, base, (), dependencies, Findings()), options)
    return replace(settled, modules=modules_of(settled.base, (*settled.system, *settled.dependencies)))


def _own_layers(workshop: Workshop, settled: _Settled, files: ProjectFiles) -> _Own:
    """Weights, berth and code; the base's Python compiles the code while the rest is looked at."""
    content, interpreter = ContentBuilder(workshop, settled.lock.base_digest), settled.base.interpreter
    code = content.code_digests(files)
    workshop.memory.spare.expect(interpreter)
    with content.code(code, interpreter) as code_layer:
        weights = content.weight_digests(files)
        notes = tuple(check_contents(workshop, files.code, weights, settled.lock.wheels, settled.modules))
        refuse_errors(notes)
        layers = (*content.weights(weights), content.berth(interpreter), code_layer())
    return _Own(layers, weights, code, notes)


def _assembled(workshop: Workshop, settled: _Settled, own: _Own, files: ProjectFiles, name: str) -> Built:
    """The image of these layers, to be stored, without a name."""
    lock, base = settled.lock, settled.base
    layers = (*base.layers, *settled.system, *settled.dependencies, *own.layers)
    signature = signature_label(workshop, files.loaded, own.weights)
    platform = workshop.target(lock).platform
    parts = Parts(workshop.project.project, platform, base, layers, files.loaded, lock.created, signature)
    return Built(
        name=name,
        image=store_image(parts, workshop.layout),
        layers=layers,
        findings=settled.findings,
        lock=lock,
        weights=own.weights,
        code=own.code,
        lock_changed=False,
        notes=own.notes,
    )


def build_index(workshops: Sequence[Workshop], options: Options, attach: Attach = _nothing) -> tuple[Built, ...]:
    """Build the project for several platforms, each as `build` does, into one image under one name.

    Everything is resolved for every platform before anything is fetched, so that what one of them lacks is told first.
    """
    changed = {workshop.platform for workshop in workshops if _lock(workshop, options)}
    part = replace(options, upgrade=False, listed=False)
    parts = [(workshop, build(workshop, part, attach)) for workshop in workshops]
    name_together(workshops[0], options, [built.image for _, built in parts])
    return tuple(
        replace(built, lock_changed=built.lock_changed or workshop.platform in changed) for workshop, built in parts
    )


def name_together(workshop: Workshop, options: Options, images: Sequence[Image]) -> None:
    """Give images of several platforms, or one, their names in the store."""
    layout = workshop.layout
    entry = images[0].manifest if len(images) == 1 else layout.write_index(images)
    for name in _names(workshop, options):
        layout.add_entry(entry, name)


def modules_of(base: Base, layers: Sequence[BuiltLayer]) -> frozenset[str]:
    """The modules of others that the image's code can import."""
    return frozenset({*modules_of_system(base.root), *(name for layer in layers for name in layer.modules)})


def _lock(workshop: Workshop, options: Options) -> bool:
    """Resolve a platform and write its lock, if it is not settled already; whether that was needed."""
    request = request_of(workshop.project)
    source = source_of(workshop, request)
    before = read_lock(workshop.project.path, workshop.platform)
    if _locked(before, request, options, workshop.platform) is not None:
        return False
    lock = resolve(source, workshop, before, options, draft_lock(source, workshop, before, options))
    write_locks(workshop.project.path, {workshop.platform: lock})
    return True


def _names(workshop: Workshop, options: Options) -> tuple[str, ...]:
    return (options.name, f"{workshop.project.project.model.name}:latest") if options.listed else ()


def source_of(workshop: Workshop, request: Request) -> BaseSource:
    """Where the project's base comes from."""
    if request.base == "debian":
        return DebianBase(workshop, request)
    # Imported only now: registries' HTTP client costs every build a tenth of a second.
    return cast(BaseSource, importlib.import_module("dockyard.build.foreign").ForeignBase(workshop, request))


def _locked(before: Lock | None, request: Request, options: Options, platform: str) -> Lock | None:
    """The lock that is there, if it answers what is asked; LockError if it does not and must not change."""
    if before is not None and before.asked == request.digest and not options.upgrade:
        return before
    if options.locked:
        problem = f"dockyard.lock has nothing for {platform}" if before is None else "dockyard.lock is out of date"
        raise LockError(problem, remedy=_LOCKED_REMEDY)
    return None


def draft_lock(source: BaseSource, workshop: Workshop, before: Lock | None, options: Options) -> Lock:
    """A lock without wheels: with the base and the Debian packages of the old one where they answer what is asked of
    them, for they change at an upgrade alone; else with a base that is resolved now, and no more.
    """
    request = source.request
    if before is not None and before.base_asked == request.base_digest and not options.upgrade and options.fix:
        return replace(before, asked=request.digest, created=now(), wheels=())
    with workshop.progress.task("Resolving the base"):
        return replace(source.draft(), base_asked=request.base_digest)


def resolve(source: BaseSource, workshop: Workshop, before: Lock | None, options: Options, draft: Lock) -> Lock:
    """The draft made whole. Versions of the old lock stay where they fit, unless an upgrade is asked for."""
    request, lock = source.request, draft
    found = before.found_packages if before and options.fix else ()
    if not lock.system:
        lock = _with_packages(source, draft, request.packages, found)
    with workshop.progress.task("Resolving Python dependencies"):
        previous = before.wheels if before and not options.upgrade else ()
        wheels = resolve_wheels(request.requirements, request.files, workshop.target(lock), previous, workshop.scratch)
    return replace(lock, wheels=wheels)


def _with_packages(source: BaseSource, lock: Lock, asked: Sequence[str], found: Sequence[str]) -> Lock:
    """The lock with the Debian packages that are asked for, and those found necessary, on top of the base."""
    added = tuple(sorted({*lock.found_packages, *found} - set(asked)))
    if not (asked or added):
        return lock
    return replace(lock, system=source.system(lock, (*asked, *added)), found_packages=added)


def _dependencies(workshop: Workshop, lock: Lock, interpreter: Future[Interpreter]) -> tuple[BuiltLayer, ...]:
    return DependencyBuilder(workshop).layers(lock.wheels, workshop.target(lock), lock.base_digest, interpreter.result)


def _preflight(source: BaseSource, settled: _Settled, options: Options) -> _Settled:
    """Look for libraries that nothing brings, add the Debian packages that have them, and look again."""
    settled = _checked(source, settled, settled.lock)
    if settled.findings.packages and not options.locked and options.fix:
        lock = _with_packages(source, settled.lock, source.request.packages, settled.findings.packages)
        settled = _checked(source, settled, lock)
    refuse(settled.findings, settled.lock.glibc)
    return settled


def _checked(source: BaseSource, settled: _Settled, lock: Lock) -> _Settled:
    """With the Debian packages of `lock`, and what is missing then."""
    system = (source.system_layer(lock),) if lock.system else ()
    layers = (*settled.base.layers, *settled.dependencies, *system)
    findings = check([layer.facts for layer in layers], lock.glibc)
    return replace(settled, lock=lock, system=system, findings=findings)
