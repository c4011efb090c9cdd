"""What a project says, as the environment in which berth serves it: BERTH_* settings, and variables of its own.

`assemble` writes it into the image, where the project is /app; `cli.dev` serves the same from the project's folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath

from dockyard.spec.project import Project


def settings_of(project: Project, weights: Sequence[str], root: PurePosixPath) -> dict[str, str]:
    """The variables of a project whose folder is `root`; `weights` are its model files, relative to that."""
    model = project.model
    settings = {
        **project.environment,
        "BERTH_MODEL_NAME": model.name,
        "BERTH_MODEL_VERSION": model.version,
        "BERTH_GOLDENS": f"{root}/{model.goldens}",
        **project.serve.environment(),
    }
    if model.description:
        settings["BERTH_MODEL_DESCRIPTION"] = model.description
    if model.predictor:
        settings["BERTH_PREDICTOR"] = model.predictor
    else:
        settings["BERTH_FORMAT"] = model.format
        settings["BERTH_WEIGHTS"] = str(root / weights[0])
        if model.options:
            settings["BERTH_OPTIONS"] = json.dumps(model.options, sort_keys=True)
    return settings
