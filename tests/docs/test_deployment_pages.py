"""The pages about deployments: every key with its default, the whole file, and commands that exist."""

from __future__ import annotations

import enum
import re
import shlex
import tomllib

import click
import msgspec
import pytest

from dockyard.cli import commands
from dockyard.spec.deployment import Deployment, Limits, Mount, Network, Probes, Routing, Server, Strategy
from dockyard.spec.load import parse_deployment
from dockyard.spec.project import Table
from tests.docs.pages import DOCS, all_blocks, blocks, rows, unquoted

PAGE = DOCS / "reference" / "deployment.md"
TABLES: dict[str, type[Table]] = {
    "At the top": Deployment,
    "[resources]": Limits,
    "[[mounts]]": Mount,
    "[network]": Network,
    "[probes]": Probes,
    "[server]": Server,
    "[strategy]": Strategy,
    "[routing]": Routing,
}


@pytest.mark.parametrize(("name", "table"), TABLES.items())
def test_the_keys_of_a_table_are_all_there_with_their_defaults(name: str, table: type[Table]) -> None:
    documented = {unquoted(row[0]): row[2] for row in rows(PAGE, name)}
    assert documented == {field.name: shown_default(field) for field in msgspec.structs.fields(table)}


def shown_default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "*required*"
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if isinstance(default, Table):
        return "*see below*"
    if isinstance(default, enum.Enum | str):
        return f'`"{default}"`'
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{[] if default == () else default}`"


def test_the_files_that_are_shown_are_deployments() -> None:
    shown = [block for block in all_blocks("toml") if block.mark == "deployment"]
    assert shown
    for block in shown:
        assert parse_deployment(tomllib.loads(block.text), str(block)).name


def test_the_whole_file_uses_most_tables() -> None:
    (block,) = blocks(PAGE)
    assert {"resources", "secrets", "mounts", "probes", "strategy", "routing", "placement"} <= set(
        tomllib.loads(block.text)
    )


def test_the_commands_of_the_page_are_commands_with_these_options() -> None:
    text = "".join(block.text for block in blocks(DOCS / "how-to" / "deploy.md") if block.language == "sh")
    lines = [shlex.split(line) for line in text.splitlines()]
    assert len(lines) > 10
    for _, verb, *words in lines:
        command = commands.get_command(click.Context(commands), verb)
        assert command is not None, verb
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None
            command = found
        command.make_context(verb, words)


def test_the_limits_that_the_decision_names_are_those_of_the_api() -> None:
    from dockyard.yard.api_streams import Limits as ApiLimits  # noqa: PLC0415  two nouns of one name

    text = (DOCS / "decisions" / "0055-the-api-is-the-only-door.md").read_text()
    told = re.search(
        r"\((\d+) MiB\) and deadlines \((\d+) s to send it, (\d+) s to be answered, (\d+) s for a\s+change\)", text
    )
    assert told is not None
    limits = ApiLimits()
    real = (limits.body_bytes >> 20, limits.body_s, limits.read_s, limits.change_s)
    assert tuple(map(float, told.groups())) == real
