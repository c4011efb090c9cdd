"""How large wheels are, as the package index says; nothing but metadata is fetched.

uv asks the index, so its settings and credentials hold. Called by `planner`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from uv import find_uv_bin

from dockyard.build.commands import run
from dockyard.build.files import scratch_folder
from dockyard.build.target import Target
from dockyard.build.wheels import Wheel


def wheel_sizes(wheels: Sequence[Wheel], target: Target, scratch: Path) -> Mapping[str, int]:
    """The bytes of the wheel of each distribution; one whose size the index does not tell is left out."""
    with scratch_folder(scratch) as folder:
        asked, answer = folder / "requirements.in", folder / "pylock.toml"
        asked.write_text("".join(f"{wheel.name}=={wheel.version}\n" for wheel in wheels))
        command = [
            find_uv_bin(), "pip", "compile", "--quiet", "--no-progress", "--color", "never", "--no-deps", "--no-build",
            "--format", "pylock.toml", "--python-platform", target.wheel_platform, "--python-version", target.python,
            "--output-file", str(answer), str(asked),
        ]  # fmt: skip
        if run(command, environment=os.environ, deadline=120).code:
            return {}
        packages = tomllib.loads(answer.read_text()).get("packages", ())
        sizes = {package["name"]: _size(package.get("wheels", ()), target, folder) for package in packages}
    return {name: size for name, size in sizes.items() if size}


def _size(files: Sequence[Mapping[str, Any]], target: Target, folder: Path) -> int:
    """The size of the wheel that would be taken: of those for this Python if there are such, the largest."""
    tags = (f"-cp{target.python.replace('.', '')}-", "-abi3-", "-py3-", "-py2.py3-")
    named = [(str(file.get("url") or file.get("path") or ""), file) for file in files]
    fitting = [file for name, file in named if any(tag in name for tag in tags)]
    return max((_bytes(file, folder) for file in fitting or files), default=0)


def _bytes(file: Mapping[str, Any], folder: Path) -> int:
    if "size" in file:
        return int(file["size"])
    local = folder / (file.get("path") or unquote(urlsplit(str(file.get("url", ""))).path))
    return local.stat().st_size if local.is_file() else 0
