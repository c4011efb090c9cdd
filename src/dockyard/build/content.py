"""The layers that are the project's own: weights, and code with its goldens; and berth's.

Weights are stored uncompressed in layers below the code, so a change of code moves kilobytes. Called by `builder`.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import hashlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from dockyard.build.bytecode import Interpreter, compile_folder, compiling_files, refuse_syntax_errors
from dockyard.build.elf import ElfFacts
from dockyard.build.files import scratch_folder
from dockyard.build.imports import tree_of
from dockyard.build.layers import BuiltLayer, Content, layer_key
from dockyard.build.memory import signatures_below
from dockyard.build.workshop import Workshop
from dockyard.errors import ProjectError
from dockyard.oci.digest import CHUNK, Digest, digest_of, digest_of_file
from dockyard.oci.files import replace_file
from dockyard.oci.layer import Entry, entries_of
from dockyard.spec.load import FILE_NAME, ProjectFolder
from dockyard.spec.project import AnyModel, Project

APP = "app"
BERTH = "opt/berth"
# Never part of an image: tools' leavings, environments, version control, images, and what only the build reads.
_EXCLUDED = (
    "__pycache__", "node_modules", "*.pyc", "*.egg-info", FILE_NAME, "dockyard.lock", "*.tar",
    "*~", "#*#", "*.swp", "*.swx", "4913", "*___jb_tmp___", "*___jb_old___",  # what editors write beside a file
)  # fmt: skip
# A folder with one of these files in it is an environment or an image layout.
_MARKERS = ("pyvenv.cfg", "oci-layout")
_OWN_LAYER = 64 << 20
LARGE_CODE = 512 << 20


@dataclass(frozen=True)
class ProjectFiles:
    """The files of a project that go into its image, as sorted paths relative to its folder."""

    code: tuple[str, ...]
    weights: tuple[str, ...]
    loaded: tuple[str, ...]
    """For each model, the file that its format loads; empty for one with a predictor."""


def find_files(folder: ProjectFolder) -> ProjectFiles:
    """The project's code and weights; ProjectError for what no image can be made of."""
    files = divide_files(folder)
    _refuse_large_code(folder, files.code)
    _check_code(folder, files.code)
    return files


def divide_files(folder: ProjectFolder) -> ProjectFiles:
    """Divide the project's files into code and weights; ProjectError for weights that do not exist."""
    each = [_weights_of(folder, model) for model in folder.project.every_model]
    weights = {name for names in each for name in names}
    loaded = tuple(
        names[0] if model.format else "" for model, names in zip(folder.project.every_model, each, strict=True)
    )
    walked = _walk(folder.path, (*_EXCLUDED, *folder.project.build.exclude))
    code = tuple(path for path in sorted(walked) if path not in weights)
    return ProjectFiles(code, tuple(sorted(weights)), loaded)


def _weights_of(folder: ProjectFolder, model: AnyModel) -> list[str]:
    found = sorted({name for pattern in model.weight_patterns for name in _matching(folder.path, pattern)})
    if model.format and len(found) != 1:
        raise ProjectError(
            f'model.format = "{model.format}" loads one file, and model.weights matches {len(found)}: '
            f"{', '.join(found[:4])}",
            remedy=f"Name the one that is the model {model.name!r} in {FILE_NAME}.",
        )
    return found


def files_to_watch(folder: Path, project: Project) -> list[Path]:
    """The files whose change may change what is served: those of an image, and what says how it is made.

    Nothing is checked, so that it can be asked of a project that is wrong at the moment.
    """
    found = {folder / name for name in _walk(folder, (*_EXCLUDED, *project.build.exclude))}
    for model in project.every_model:
        for pattern in model.weight_patterns:
            found.update(path for path in _inside(folder, pattern) if path.is_file())
    more = [FILE_NAME, "dockyard.lock", project.model.card]
    if isinstance(project.build.requirements, str):
        more.append(project.build.requirements)
    return sorted({*found, *(folder / name for name in more if name)})


def folders_to_watch(folder: Path, project: Project) -> list[Path]:
    """The folders in which such files are, or may come to be."""
    parents = {path.parent for path in files_to_watch(folder, project)}
    inside = {path for path, _ in _visited(folder, (*_EXCLUDED, *project.build.exclude))}
    return sorted(parents | inside)


def _inside(folder: Path, pattern: str) -> Iterable[Path]:
    outside = PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts
    return () if outside else folder.glob(pattern)


def _matching(folder: Path, pattern: str) -> list[str]:
    if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
        raise ProjectError(
            f"{folder / FILE_NAME}: model.weights names {pattern!r}, outside the project",
            remedy="Put the file into the project's folder and name it relative to that.",
        )
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not found:
        train = "Run the training script that writes it" if (folder / "train.py").exists() else "Put it there"
        raise ProjectError(
            f"the weights {pattern!r} do not exist in {folder}",
            remedy=f"{train}, or correct `weights` under [model] in {FILE_NAME}.",
        )
    return found


def _walk(folder: Path, excluded: Sequence[str]) -> Iterator[str]:
    """Files below `folder`, without hidden ones, environments and what `excluded` names (by name or by path)."""
    for _, files in _visited(folder, excluded):
        yield from files


def _visited(folder: Path, excluded: Sequence[str]) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with its files."""
    is_excluded = _matcher(tuple(excluded))
    waiting = [""]
    while waiting:
        place, files = waiting.pop(), []
        with os.scandir(folder / place) as found:
            entries = list(found)
        for entry in entries:
            relative = place + entry.name
            if entry.name.startswith(".") or is_excluded(entry.name) or is_excluded(relative):
                continue
            if entry.is_dir(follow_symlinks=False):
                if not any(Path(entry.path, marker).exists() for marker in _MARKERS):
                    waiting.append(f"{relative}/")
            elif entry.is_file(follow_symlinks=False) or Path(entry.path).is_file():
                files.append(relative)
        yield folder / place, files


@functools.lru_cache(4)
def _matcher(patterns: tuple[str, ...]) -> Callable[[str], object]:
    """Whether a name matches one of these."""
    return re.compile("|".join(map(fnmatch.translate, patterns))).match


def _refuse_large_code(folder: ProjectFolder, code: Sequence[str]) -> None:
    sizes = folder_sizes(folder.path, code)
    size = sum(sizes.values())
    if size > LARGE_CODE:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ProjectError(
            f"the project has {size >> 20} MiB of files besides its weights, {len(code)} in all",
            remedy=f'Name model files in [model] weights, and keep data out: [build] exclude = ["{largest}"].',
        )


def _check_code(folder: ProjectFolder, code: Sequence[str]) -> None:
    whole = folder.path.resolve()
    for relative in code:
        file = folder.path / relative
        if file.is_symlink() and not file.resolve().is_relative_to(whole):
            raise ProjectError(
                f"{relative} is a link that leads out of the project",
                remedy="Copy the file into the project, or keep it out with [build] exclude.",
            )
    for reference in filter(None, (model.predictor for model in folder.project.every_model)):
        module = reference.partition(":")[0].replace(".", "/")
        if f"{module}.py" not in code and f"{module}/__init__.py" not in code:
            raise ProjectError(
                f"{folder.path / FILE_NAME}: model.predictor is {reference!r}, and the project has no {module}.py",
                remedy="Name the module that has the predictor class, relative to the project's folder.",
            )
        _check_class(folder, reference, f"{module}.py" if f"{module}.py" in code else f"{module}/__init__.py")


def _check_class(folder: ProjectFolder, reference: str, file: str) -> None:
    """Refuse a class that its module surely does not define; nothing is executed to find out."""
    name = reference.partition(":")[2]
    try:
        tree = tree_of((folder.path / file).read_bytes())
    except (SyntaxError, ValueError):
        return  # the image's own Python judges that, when it compiles
    if any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body):
        return
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.alias)}
    renamed = {node.asname for node in ast.walk(tree) if isinstance(node, ast.alias)}
    if name not in words | defined | renamed and not defined & {"*", "__getattr__"}:
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        has = f"it has {', '.join(classes)}" if classes else "it has none"
        raise ProjectError(
            f"{folder.path / FILE_NAME}: model.predictor is {reference!r}, and {file} has no class {name!r}",
            remedy=f"Name a class of {file}: {has}.",
        )


def folder_sizes(folder: Path, code: Sequence[str]) -> dict[str, int]:
    """The bytes of files in each folder (or file) at the top of the project."""
    sizes: dict[str, int] = {}
    for relative in code:
        top = relative.split("/")[0]
        sizes[top] = sizes.get(top, 0) + (folder / relative).stat().st_size
    return sizes


@dataclass(frozen=True)
class Group:
    """A layer that is to be: its title, its key in the cache, and the names of its files."""

    title: str
    key: str
    names: tuple[str, ...]
    programs: frozenset[str] = frozenset()
    """Those that their owner may run."""


@dataclass(frozen=True)
class ContentBuilder:
    """Makes the layers of weights, berth and code; `base_key` stands for the Python that compiles them."""

    workshop: Workshop
    base_key: str

    def weight_digests(self, files: ProjectFiles) -> dict[str, Digest]:
        """The digest of each file of the weights; remembered, since they may be large."""
        with self.workshop.progress.task("Reading weights"):
            return {name: self._digest(self.workshop.project.path / name) for name in files.weights}

    def code_digests(self, files: ProjectFiles) -> dict[str, Digest]:
        """The digest of each file of the code."""
        memory, folder = self.workshop.memory, self.workshop.project.path
        return {name: memory.digest(folder / name, digest_of_file) for name in files.code}

    def weight_groups(self, digests: Mapping[str, Digest]) -> list[Group]:
        """How weights are divided into layers: one for each file from 64 MiB, one for all smaller ones."""
        folder, names = self.workshop.project.path, sorted(digests)
        large = [name for name in names if (folder / name).stat().st_size >= _OWN_LAYER]
        small = [name for name in names if name not in large]
        groups = [[name] for name in large] + ([small] if small else [])
        return [
            Group(
                f"weights: {group[0]}" if len(group) == 1 else f"weights: {len(group)} files",
                layer_key("weights", "none", files={name: digests[name] for name in group}),
                tuple(group),
            )
            for group in groups
        ]

    def weights(self, digests: Mapping[str, Digest]) -> tuple[BuiltLayer, ...]:
        """Uncompressed layers, as `weight_groups` divides them."""
        return tuple(self._weights(group, digests) for group in self.weight_groups(digests))

    def _weights(self, group: Group, digests: Mapping[str, Digest]) -> BuiltLayer:
        folder = self.workshop.project.path
        entries = [_file(f"{APP}/{name}", folder / name) for name in group.names]

        def check() -> None:
            for name in group.names:
                if self._digest(folder / name) != digests[name]:
                    raise _changed(folder / name)

        content = Content(entries, ElfFacts(), check=check)
        return self.workshop.layers.layer(group.title, group.key, "none", lambda: content)

    def _digest(self, file: Path) -> Digest:
        """The digest of a large file, remembered by what the file system says of it, as git does."""
        stat = file.stat()
        seen = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
        note = self.workshop.cache / "weights" / digest_of(seen.encode()).removeprefix("sha256:")
        if note.exists():
            return Digest(note.read_text())
        digest = digest_of_file(file)
        replace_file(note, msgspec.json.encode(digest)[1:-1], note.parent)
        return digest

    def berth_group(self) -> Group:
        """What is in berth's layer: berth as it is installed here."""
        package, memory = berth_folder(), self.workshop.memory
        seen = (self.workshop.codec, self.base_key, tuple(signatures_below(str(package))))
        if (known := memory.recall("berth", seen)) is not None:
            group: Group = known
            return group
        names = sorted(Path(path).relative_to(package).as_posix() for path, _ in seen[2])
        digests = {name: digest_of((package / name).read_bytes()) for name in names}
        key = layer_key("berth", self.workshop.codec, files=digests, compiler=self.base_key)
        memory.keep("berth", seen, Group("berth", key, tuple(names)))
        return Group("berth", key, tuple(names))

    def berth(self, interpreter: Interpreter) -> BuiltLayer:
        """berth, with bytecode of the image's Python."""
        group = self.berth_group()
        if found := self.workshop.layers.find(group.key):
            return found
        with scratch_folder(self.workshop.scratch) as work:
            _copy(berth_folder(), group.names, work / "berth", group.programs)
            compile_folder(interpreter, work, f"/{BERTH}")
            return self._packed("berth", group.key, work, BERTH)

    def code_group(self, digests: Mapping[str, Digest]) -> Group:
        """What is in the layer of the project's code and goldens."""
        folder, names = self.workshop.project.path, sorted(digests)
        modes = [name for name in names if (folder / name).stat().st_mode & 0o100]
        key = layer_key("code", self.workshop.codec, files=dict(digests), modes=modes, compiler=self.base_key)
        return Group("code", key, tuple(names), frozenset(modes))

    @contextmanager
    def code(self, digests: Mapping[str, Digest], interpreter: Interpreter) -> Iterator[Callable[[], BuiltLayer]]:
        """The project's code and goldens: a process compiles while the caller does something else, and then calls what
        is given here for the layer. ProjectError for a file that is not valid Python.
        """
        group = self.code_group(digests)
        if found := self.workshop.layers.find(group.key):
            yield lambda: found
            return
        with scratch_folder(self.workshop.scratch, self.workshop.memory.later) as work:
            copied = _copy(self.workshop.project.path, group.names, work, group.programs)
            for name in group.names:
                if copied[name] != digests[name]:
                    raise _changed(self.workshop.project.path / name)
            sources = [(work / name, f"/{APP}/{name}") for name in group.names if name.endswith(".py")]
            with compiling_files(interpreter, sources, self.workshop.memory.spare) as problems:

                def layer() -> BuiltLayer:
                    refuse_syntax_errors(problems(), work)
                    return self._packed("code", group.key, work, APP)

                yield layer

    def _packed(self, title: str, key: str, folder: Path, inside: str) -> BuiltLayer:
        content = Content(entries_of(folder, inside), ElfFacts())
        return self.workshop.layers.layer(title, key, self.workshop.codec, lambda: content)


def berth_folder() -> Path:
    """Where berth is installed, found without importing it."""
    spec = importlib.util.find_spec("berth")
    if spec is None or not spec.submodule_search_locations:
        raise ProjectError(
            "berth is not installed beside dockyard", remedy="Install the distribution `dockyard` whole."
        )
    return Path(spec.submodule_search_locations[0])


def _copy(folder: Path, names: Sequence[str], target: Path, programs: frozenset[str]) -> dict[str, Digest]:
    """The digest of each file as it was copied."""
    for parent in dict.fromkeys((target / name).parent for name in names):
        parent.mkdir(parents=True, exist_ok=True)
    return {name: _copied(folder / name, target / name, 0o755 if name in programs else 0o644) for name in names}


def _copied(source: Path, target: Path, mode: int) -> Digest:
    hashed = hashlib.sha256()
    with source.open("rb", buffering=0) as file, target.open("wb") as copy:
        os.fchmod(copy.fileno(), mode)
        while data := file.read(CHUNK):
            hashed.update(data)
            copy.write(data)
    return Digest("sha256:" + hashed.hexdigest())


def _changed(file: Path) -> ProjectError:
    return ProjectError(f"{file} changed while it was being read", remedy="Build again when nothing writes to it.")


def _file(path: str, source: Path) -> Entry:
    return Entry(path, 0o755 if source.stat().st_mode & 0o100 else 0o644, "file", source)
