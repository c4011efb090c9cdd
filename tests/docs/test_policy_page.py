"""The page about policies says what the code does: keys, defaults, rules; its example is accepted."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from dockyard.spec.load import load_policy
from dockyard.spec.policy import Containers, Goldens, Images, Policy, PolicyException, Rule, Signed
from dockyard.spec.project import Table
from tests.docs.pages import DOCS, blocks, rows, unquoted

PAGE = DOCS / "reference" / "policy.md"
TABLES: dict[str, type[Table]] = {
    "[signed]": Signed,
    "[goldens]": Goldens,
    "[images]": Images,
    "[containers]": Containers,
    "[[exceptions]]": PolicyException,
}


@pytest.mark.parametrize(("name", "table"), TABLES.items())
def test_the_keys_of_a_table_are_all_there_with_their_defaults(name: str, table: type[Table]) -> None:
    documented = {unquoted(row[0]): row[2] for row in rows(PAGE, name)}
    shown = {False: "`false`", (): "`[]`", "": '`""`', msgspec.NODEFAULT: "*required*"}
    assert documented == {field.name: shown[field.default] for field in msgspec.structs.fields(table)}


def test_every_table_and_every_rule_is_there() -> None:
    assert re.findall(r"^## \[+(\w+)\]+$", PAGE.read_text(), re.M) == list(Policy.__struct_fields__)
    assert [unquoted(row[0]) for row in rows(PAGE, "Rules")] == list(Rule)


def test_the_policy_that_is_shown_is_accepted(tmp_path: Path) -> None:
    (block,) = (one for one in blocks(PAGE) if one.language == "toml")
    (tmp_path / "policy.toml").write_text(block.text)
    policy = load_policy(tmp_path / "policy.toml")
    assert policy.signed.required
    assert policy.exceptions[0].rule is Rule.GOLDENS
