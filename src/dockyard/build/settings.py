"""What a project says, as the environment in which berth serves it: BERTH_* settings, and variables of its own.

`assemble` writes it into the image, where the project is /app; `cli.dev` serves the same from the project's folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath

from dockyard.spec.project import Project

SLEEP_SOON = {"OPENBLAS_THREAD_TIMEOUT": "18"}
"""numpy's threads look for work in a loop before they sleep, one a core, also right after numpy is imported: for 2^26
cycles by default, some 50 ms of each core that a start takes from those that answer. 2^18 are a tenth of a
millisecond, enough from one product of matrices to the next. Results do not depend on it."""


def settings_of(project: Project, loaded: Sequence[str], root: PurePosixPath) -> dict[str, str]:
    """The variables of a project in the folder `root`; `loaded` has the file that each model's format loads, or ""."""
    settings = {
        **project.environment,
        "BERTH_GOLDENS": f"{root}/{project.model.goldens}",
        **project.serve.environment(),
    }
    entries = [model.entry(str(root / name)) for model, name in zip(project.every_model, loaded, strict=True)]
    if project.models:
        settings.pop("BERTH_THREADS", None)  # it stands with each model
        threads = {} if project.serve.threads is None else {"threads": project.serve.threads}
        return settings | {"BERTH_MODELS": json.dumps([threads | entry for entry in entries], sort_keys=True)}
    names = {"name": "BERTH_MODEL_NAME", "version": "BERTH_MODEL_VERSION", "description": "BERTH_MODEL_DESCRIPTION"}
    for key, value in entries[0].items():
        if value:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            settings[names.get(key, f"BERTH_{key.upper()}")] = text
    return settings
