"""What a project's modules import, found by parsing them: nothing is executed.

It starts at the module of the predictor (or of the backend that serves the weights) and goes on through the project's
own modules. Called by `contents_check`, which knows what can be imported in the image.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_FORGIVING = ("ImportError", "ModuleNotFoundError", "Exception", "BaseException")


@dataclass(frozen=True)
class Import:
    """A top-level module that a file imports at a line: `always`, when the file is imported, or later, or perhaps."""

    module: str
    file: str
    line: int
    always: bool


def imports_from(folder: Path, code: Iterable[str], start: str) -> Iterator[Import]:
    """The imports of others' modules that importing the module `start` leads to; `code` are the project's files."""
    own = _own_modules(code)
    waiting, seen = [start], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        # Importing a.b imports a first.
        for module in [".".join(name.split(".")[: depth + 1]) for depth in range(name.count(".") + 1)]:
            if module not in own:
                continue
            seen.add(module)
            for found in _imports_of(folder, own[module], module):
                if found.name.partition(".")[0] in own:
                    waiting.append(found.name)
                elif not found.own:
                    yield Import(found.name.partition(".")[0], own[module], found.line, found.always)


@functools.lru_cache(16)
def tree_of(source: bytes) -> ast.Module:
    """A file's syntax tree, not to be changed; SyntaxError or ValueError as `ast.parse` raises them."""
    return ast.parse(source)


def _own_modules(code: Iterable[str]) -> Mapping[str, str]:
    """The project's modules and packages, each with its file; a package without __init__.py has an empty one."""
    modules: dict[str, str] = {}
    for file in code:
        if not file.endswith((".py", ".so")):
            continue
        parts = file.split("/")
        parts[-1] = parts[-1].split(".")[0]
        if parts[-1] == "__init__":
            parts.pop()
        for depth in range(1, len(parts)):
            modules.setdefault(".".join(parts[:depth]), "")
        if parts:
            modules[".".join(parts)] = file
    return modules


@dataclass(frozen=True)
class _Found:
    """A module as it is named in a file; `own` when it can only be one of the same package."""

    name: str
    line: int
    always: bool
    own: bool = False


def _imports_of(folder: Path, file: str, module: str) -> Iterator[_Found]:
    """All imports of a file; of one that cannot be parsed, none: the image's own Python judges that."""
    if not file.endswith(".py"):
        return
    try:
        tree = tree_of((folder / file).read_bytes())
    except (SyntaxError, ValueError):
        return
    package = module if file.endswith("__init__.py") else module.rpartition(".")[0]
    yield from _of_statements(tree.body, package, always=True)


def _of_statements(statements: Sequence[ast.AST], package: str, *, always: bool) -> Iterator[_Found]:
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (_Found(alias.name, node.lineno, always) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _of_from(node, package, always)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _of_statements(node.orelse, package, always=always)
        elif isinstance(node, ast.ClassDef | ast.With):
            yield from _of_statements(node.body, package, always=always)
        elif isinstance(node, ast.Try | ast.TryStar):
            forgiven = any(_forgives(handler) for handler in node.handlers)
            yield from _of_statements(node.body, package, always=always and not forgiven)
            rest = (*(part for handler in node.handlers for part in handler.body), *node.orelse, *node.finalbody)
            yield from _of_statements(rest, package, always=False)
        else:  # a function, or what depends on a condition
            yield from _of_statements(list(ast.iter_child_nodes(node)), package, always=False)


def _of_from(node: ast.ImportFrom, package: str, always: bool) -> Iterator[_Found]:
    base = node.module or ""
    if node.level:
        parts = package.split(".")
        kept = parts[: len(parts) - node.level + 1]
        base = ".".join([*kept, *([base] if base else [])])
    yield _Found(base, node.lineno, always, own=bool(node.level))
    # What is imported may be a module of the package itself.
    yield from (_Found(f"{base}.{alias.name}", node.lineno, always, own=True) for alias in node.names)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _forgives(handler: ast.ExceptHandler) -> bool:
    """Whether a handler catches a failed import."""
    if handler.type is None:
        return True
    return any(
        (isinstance(node, ast.Name) and node.id in _FORGIVING)
        or (isinstance(node, ast.Attribute) and node.attr in _FORGIVING)
        for node in ast.walk(handler.type)
    )
