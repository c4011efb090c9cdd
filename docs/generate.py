"""Writes docs/reference/command-line.md out of the command line's own help.

Run `python docs/generate.py` after changing a verb or an option; tests/docs/test_reference.py fails until then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from dockyard.cli import VERBS, commands

TARGET = Path(__file__).parent / "reference" / "command-line.md"
_HEAD = """\
# Command line

*Generated from the program's own help by `docs/generate.py`; do not edit.*

{verbs}

`dockyard VERB --help` prints the same on a terminal, `dockyard --version` the version.

**Exit codes.** 0: done. 1: an error that is explained on standard error, with what to do about it. 2: wrong usage.
130: stopped by Ctrl-C. `dockyard run` in the foreground ends with the exit code of the container, or with 0 when Ctrl-C
ended it, as `dockyard dev` and `dockyard build --watch` do; `dockyard test` with that of `berth selftest`: 0 when all
goldens hold; `dockyard batch` with 3 when some rows failed. `dockyard deploy`, `rollback`, `restart` and `promote` end
with 1 when the rollout failed, `dockyard drift` when something differs, `dockyard scan --fail-on` when there is such a
problem or not everything could be checked.

**Standard output and error.** Results (answers, lists, JSON) go to standard output; progress, summaries and errors go
to standard error. So `dockyard build --json > build.json` and `dockyard predict ... | jq .` work as they should.

**Environment.** `DOCKYARD_HOME` is where images, caches and containers are kept; without it, `dockyard` in
`$XDG_DATA_HOME` or in `~/.local/share`. `DOCKER_HOST` names the Docker Engine, a `unix://` socket of this machine.
`DOCKYARD_YARD` is where a yard answers, `unix:///PATH` or `https://HOST:PORT`; without it, the one of this home.
`DOCKYARD_TOKEN`, or a file that `DOCKYARD_TOKEN_FILE` names, lets callers in; `DOCKYARD_CA` is the certificate of a
private authority.
"""


def page() -> str:
    """The whole page."""
    verbs = "\n".join(f"- [`{name}`](#{name}): {text}" for name, (text, _) in VERBS.items())
    parts = [_HEAD.format(verbs=verbs)]
    root = click.Context(commands, info_name="dockyard")
    for name in VERBS:
        command = commands.get_command(root, name)
        assert command is not None
        parts.append("\n".join(_sections(name, command, root)))
    return "\n".join(parts)


def _sections(name: str, command: click.Command, root: click.Context) -> Iterator[str]:
    """A verb; of one that has verbs of its own, each of those."""
    if not isinstance(command, click.Group):
        yield from _section(name, command, root)
        return
    yield f"## {name}\n\n{' '.join((command.help or '').split())}\n"
    yield from _options(command)
    for below, one in command.commands.items():
        yield from _section(f"{name} {below}", one, root, level=3)


def _section(name: str, command: click.Command, root: click.Context, level: int = 2) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=root)
    usage = re.sub(r"\s+", " ", command.get_usage(context)).removeprefix("Usage: ")
    yield f"{'#' * level} {name}\n\n```text\n{usage}\n```\n"
    yield f"{' '.join((command.help or '').split())}\n"
    yield from _options(command)


def _options(command: click.Command) -> Iterator[str]:
    options = [one for one in command.params if isinstance(one, click.Option)]
    if options:
        yield "| option | value | meaning |\n|---|---|---|"
        for option in options:
            yield f"| {_names(option)} | {_value(option)} | {_meaning(option)} |"
        yield ""


def _names(option: click.Option) -> str:
    return ", ".join(f"`{name}`" for name in option.opts)


def _value(option: click.Option) -> str:
    kind = option.type
    if option.is_flag:
        return ""
    if option.metavar:
        return f"`{option.metavar}`"
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    if isinstance(kind, click.IntRange | click.FloatRange):
        what = "whole number" if isinstance(kind, click.IntRange) else "number"
        if kind.max is None:
            return f"{what}, {kind.min:g} or more"
        return f"{what}, {kind.min:g} to {kind.max:g}"
    return "path" if isinstance(kind, click.Path) else "text"


def _meaning(option: click.Option) -> str:
    text = (option.help or "").replace("|", "\\|")
    if option.multiple:
        text += " May be given several times."
    if isinstance(option.default, str | float | int) and not option.is_flag:
        default = option.default if isinstance(option.default, str) else f"{option.default:g}"
        text += f" Default: `{default}`."
    return text


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
