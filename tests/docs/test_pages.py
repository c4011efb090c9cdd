"""Every page: links lead somewhere, examples parse, compile and do what is said of them."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from berth.backends.base import Options
from berth.predictors import find_predictor, kind_of, takes_lists
from berth.signature import signature_of
from dockyard.spec.load import parse_project
from tests.docs.pages import DOCS, ROOT, Block, all_blocks, anchors, blocks, links, pages

HOW_TO = DOCS / "how-to"
PREDICTORS = [block for block in all_blocks("python") if "def predict(" in block.text]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), f"{page.name} links to {target}"
        if anchor and goal.suffix == ".md":
            assert anchor in anchors(goal), f"{page.name} links to {target}; there are {sorted(anchors(goal))}"


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    listed = {(DOCS / target.partition("#")[0]).resolve() for target in links(DOCS / "README.md")}
    assert {page for page in pages() if page.is_relative_to(DOCS)} - listed == {DOCS / "README.md"}


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_every_project_file_that_is_shown_is_accepted(block: Block) -> None:
    data = tomllib.loads(block.text)
    if "model" in data:
        assert parse_project(data, str(block)).model.name


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_every_python_example_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", all_blocks("json"), ids=str)
def test_every_json_example_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", PREDICTORS, ids=str)
def test_every_predictor_that_is_shown_has_a_schema(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = imported(block, tmp_path, monkeypatch)
    found = [value for value in vars(module).values() if inspect.isclass(value) and "predict" in vars(value)]
    assert len(found) == 1
    predictor = find_predictor(f"{module.__name__}:{found[0].__name__}")
    predict = predictor().predict
    schema = signature_of(predict, rows=takes_lists(predict), streams=kind_of(predict).streams).schemas()
    assert {"Input", "Output"} <= set(schema)


def test_the_backend_that_is_shown_loads_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (one for one in blocks(HOW_TO / "add-a-backend.md") if one.language == "python")
    module = imported(block, tmp_path, monkeypatch)
    weights = tmp_path / "weights.txt"
    weights.write_text("1\n2\n")
    backend = module.load(weights, Options(1, {"scale": 2}))
    assert backend.infer({"x": np.array([[1.0, 1.0], [0.0, 3.0]])})["y"].tolist() == [6.0, 12.0]
    assert [spec.shape for spec in backend.inputs] == [(-1, 2)]


def imported(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The block as a module of its own."""
    name = f"example_{block.page.stem.replace('-', '_')}_{block.number}"
    file = folder / f"{name}.py"
    file.write_text(block.text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module
