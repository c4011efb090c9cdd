"""The how-to on several models does what it says: its files are served as its image would, and asked."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path, PurePosixPath

from dockyard.build.settings import settings_of
from dockyard.spec.load import parse_project
from tests.berth.support import serving
from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "how-to" / "several-models.md"


def test_the_models_of_the_page_are_served_and_answer_as_it_says(tmp_path: Path) -> None:
    files = {block.mark.removeprefix("file: "): block.text for block in blocks(PAGE) if block.mark.startswith("file: ")}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    project = parse_project(tomllib.loads(files["dockyard.toml"]), "dockyard.toml")
    settings = settings_of(project, [""] * len(project.every_model), PurePosixPath("/app"))
    (asked,) = (block.text for block in blocks(PAGE) if block.language == "sh")
    (answer,) = (block.text for block in blocks(PAGE) if block.mark == "answer")
    question = asked.split("'")[1].encode()
    with serving(cwd=tmp_path, MODELS=settings["BERTH_MODELS"]) as server:
        assert server.post("/predict", question).json == json.loads(answer)
        assert server.post("/models/mood/predict", {"words": ["bad"]}).json == -1
        assert server.get("/v2/models/mood/versions/3/ready").status == 200
        refused = server.predict(text="")
        assert (refused.status, refused.json["error"]) == (422, "model 'mood': words: expected at least one")
        assert "`model 'mood': words: expected at least one`" in PAGE.read_text()
