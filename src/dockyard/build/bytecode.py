"""Compiles Python files to bytecode with the very interpreter that will run them: the one in the base image.

The base's Python is started on this machine through its own dynamic loader, so the bytecode does not depend on this
machine's Python (PEP 552 unchecked-hash files: no time stamp inside). It compiles and does nothing else; no code of the
project or of a wheel is imported. Called by `base`, `wheels` and `code`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dockyard.build.commands import Output, Started, start
from dockyard.errors import DockyardError, ProjectError

# Runs inside the base's interpreter: reads [source, shown name, target] triples, answers with the syntax errors.
_COMPILE = """
import json, os, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
bad = []
for source, shown, target in json.load(sys.stdin):
    try:
        py_compile.compile(source, cfile=target, dfile=shown, doraise=True, invalidation_mode=mode)
    except py_compile.PyCompileError as error:
        value = error.exc_value
        bad.append([source, getattr(value, 'lineno', 0) or 0, getattr(value, 'msg', None) or str(value)])
json.dump(bad, sys.stdout)
sys.stdout.flush()
os._exit(0)
"""
_DEADLINE_S = 600.0
# What that program is itself made of.
_OWN = """
import json, os, py_compile, sys
json.dump(sorted(m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)), sys.stdout)
"""


@dataclass(frozen=True)
class Interpreter:
    """A base image's Python, runnable here: its loader, where its libraries are, the program, its version (`3.11`).

    `root` is the tree that all of it lies in.
    """

    root: Path
    loader: Path
    libraries: tuple[Path, ...]
    program: Path
    home: Path
    version: str

    def cache_name(self, source: Path) -> Path:
        """Where the bytecode of `source` belongs (PEP 3147)."""
        return source.parent / "__pycache__" / f"{source.stem}.cpython-{self.version.replace('.', '')}.pyc"


@dataclass(frozen=True)
class SyntaxProblem:
    """A file that does not compile: its path on this machine, the line and Python's message."""

    file: Path
    line: int
    message: str


def compile_folder(interpreter: Interpreter, folder: Path, inside: str) -> tuple[SyntaxProblem, ...]:
    """Compile each .py file below `folder`, which will be `inside` in the image; the files that do not compile.

    Test folders of packages are left out: nothing imports them when serving, and they are a fifth of the bytes.
    """
    sources = sources_to_compile(folder)
    return compile_files(interpreter, [(path, f"{inside}/{path.relative_to(folder).as_posix()}") for path in sources])


def sources_to_compile(folder: Path) -> list[Path]:
    """Each .py file below `folder` but tests', sorted."""
    return sorted(path for path in folder.rglob("*.py") if not _is_test(path.relative_to(folder)))


class Spare:
    """A process of a base's Python that was started ahead and waits for files to compile.

    Each compiles once and ends, like any other; only its start, most of its time, is over when it is needed.
    """

    def __init__(self) -> None:
        self._interpreter: Interpreter | None = None
        self._started: Started | None = None
        self._used: list[Started] = []

    def prepare(self, interpreter: Interpreter) -> None:
        """Have one wait, unless it does already."""
        self.expect(interpreter)
        if self._started is None or self._started.process.poll() is not None:
            self.close()
            self._started = _started(interpreter, _COMPILE)

    def take(self, interpreter: Interpreter) -> Started | None:
        """The one that waits, if it is of this Python and lives."""
        self.expect(interpreter)
        started, self._started = self._started, None
        if started is not None and started.process.poll() is not None:
            started.stop()
            return None
        return started

    def used(self, started: Started) -> None:
        """Leave a process that has answered to its end, which `close` waits for."""
        self._used.append(started)

    def expect(self, interpreter: Interpreter) -> None:
        """Know of which Python `renew` is to have one wait."""
        if self._interpreter != interpreter:
            self.close()
            self._interpreter = interpreter

    def renew(self) -> None:
        """Have one wait of the Python that was expected last, if any was."""
        if self._interpreter is not None:
            self.prepare(self._interpreter)

    def close(self) -> None:
        """End the one that waits, and those that have answered."""
        for started in (*self._used, *([self._started] if self._started else [])):
            started.stop()
        self._started, self._used = None, []


def compile_files(interpreter: Interpreter, sources: Sequence[tuple[Path, str]]) -> tuple[SyntaxProblem, ...]:
    """Compile each (file, name in the image); bytecode goes to `__pycache__` beside the file."""
    return _compile(interpreter, [(path, shown, interpreter.cache_name(path)) for path, shown in sources])


@contextmanager
def compiling_files(
    interpreter: Interpreter, sources: Sequence[tuple[Path, str]], spare: Spare
) -> Iterator[Callable[[], tuple[SyntaxProblem, ...]]]:
    """As `compile_files`, while the caller does something else, and then calls what is given here.

    A process that waits in `spare` is used up.
    """
    jobs = [(path, shown, interpreter.cache_name(path)) for path, shown in sources]
    if not jobs:
        yield tuple
        return
    started = spare.take(interpreter) or _started(interpreter, _COMPILE)
    spare.used(started)
    with closing(started.ask(_question(jobs))) as asked:

        def answer() -> tuple[SyntaxProblem, ...]:
            # It has nothing more to do then than to end, which takes as long as compiling a small file.
            return _problems(_checked(interpreter, asked.answer(_DEADLINE_S, _is_whole)))

        yield answer


def compile_into(interpreter: Interpreter, sources: Sequence[tuple[Path, str, Path]]) -> tuple[SyntaxProblem, ...]:
    """Compile each (file, name in the image, where it would lie); bytecode goes to `__pycache__` beside the last."""
    return _compile(interpreter, [(path, shown, interpreter.cache_name(place)) for path, shown, place in sources])


def compile_library(interpreter: Interpreter, root: Path, into: Path) -> None:
    """Compile the standard library of the base that is unpacked at `root`; bytecode goes below `into`.

    Left out is what `compile_own` has compiled.
    """
    library = root / f"usr/lib/python{interpreter.version}"
    sources = sorted({*library.rglob("*.py")} - set(_own_sources(interpreter, root)))
    jobs = [(path, _inside(root, path), into / interpreter.cache_name(path).relative_to(root)) for path in sources]
    _compile(interpreter, jobs)


def compile_own(interpreter: Interpreter, root: Path) -> None:
    """Compile, beside their sources, the modules of the base at `root` that compiling itself imports.

    With them compiling starts fast; and it imports the same files whatever else has been compiled by then. `root` may
    be the base of another architecture, with the same Python as the interpreter's own.
    """
    compile_files(interpreter, [(path, _inside(root, path)) for path in _own_sources(interpreter, root)])


def _own_sources(interpreter: Interpreter, root: Path) -> list[Path]:
    names = [Path(name) for name in json.loads(_answer(interpreter, _started(interpreter, _OWN), ""))]
    return [root / name.relative_to(interpreter.root) for name in names if name.suffix == ".py"]


def _inside(root: Path, path: Path) -> str:
    return "/" + path.relative_to(root).as_posix()


def _compile(interpreter: Interpreter, jobs: Sequence[tuple[Path, str, Path]]) -> tuple[SyntaxProblem, ...]:
    """Compile each (file, name in the image, bytecode's file).

    One process for each call and a fixed order: bytecode can depend on what its process compiled before.
    """
    return _problems(_answer(interpreter, _started(interpreter, _COMPILE), _question(jobs))) if jobs else ()


def _question(jobs: Sequence[tuple[Path, str, Path]]) -> str:
    """What the program reads; the folders of its answers are made."""
    for folder in dict.fromkeys(target.parent for *_, target in jobs):
        folder.mkdir(parents=True, exist_ok=True)
    return json.dumps([[str(path), shown, str(target)] for path, shown, target in jobs])


def _problems(answer: str) -> tuple[SyntaxProblem, ...]:
    return tuple(SyntaxProblem(Path(file), line, message) for file, line, message in json.loads(answer))


def _is_whole(said: bytes) -> bool:
    """Whether the program has said all: one list."""
    try:
        return said.endswith(b"]") and isinstance(json.loads(said), list)
    except ValueError:
        return False


def _started(interpreter: Interpreter, program: str) -> Started:
    """A program in the base's Python. It leaves no bytecode of what it imports."""
    libraries = ":".join(str(folder) for folder in interpreter.libraries)
    command = [str(interpreter.loader), "--library-path", libraries, str(interpreter.program)]
    # Nothing of this machine's Python settings may reach the bytecode; the seed fixes the order of sets in it.
    environment = {"PYTHONHOME": str(interpreter.home), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    return start([*command, "-B", "-P", "-S", "-s", "-c", program], environment=environment)


def _answer(interpreter: Interpreter, started: Started, stdin: str) -> str:
    """What the program prints when it has read `stdin`."""
    return _checked(interpreter, started.end(stdin, _DEADLINE_S))


def _checked(interpreter: Interpreter, done: Output) -> str:
    """What was printed, if it went well."""
    if done.code:
        raise DockyardError(
            f"the base image's Python {interpreter.version} could not compile the image's code",
            detail=done.stderr[-2000:],
            remedy="The base may be for another processor, or damaged: name another [build] base.",
        )
    return done.stdout


def refuse_syntax_errors(problems: Sequence[SyntaxProblem], project: Path) -> None:
    """Raise ProjectError naming file and line of the first problem, if there is one."""
    if problems:
        first = problems[0]
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        name = first.file.relative_to(project) if first.file.is_relative_to(project) else first.file
        raise ProjectError(
            f"{name}, line {first.line}: {first.message}{more}",
            remedy="The image's Python cannot read this file: correct it, or keep it out with [build] exclude.",
        )


def _is_test(path: Path) -> bool:
    return any(part in {"tests", "test"} for part in path.parts[:-1])
