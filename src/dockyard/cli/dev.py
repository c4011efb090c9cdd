"""`dockyard dev`: serve the project here natively, and again on every change.

Puts together what `build` knows (files, settings, a Python for the project) and what `dev` does with it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import click

from dockyard.build.content import files_to_watch, find_files
from dockyard.build.environment import Interpreter, Wanted, interpreter_for
from dockyard.build.settings import SLEEP_SOON, settings_of
from dockyard.cli import places
from dockyard.cli.launching import environment_of
from dockyard.dev.loop import Manner, Project, develop
from dockyard.dev.server import Plan, check_port
from dockyard.errors import ProjectError
from dockyard.spec.load import load_project
from dockyard.spec.project import Project as Manifest

_COLOURS = {"good": "green", "bad": "red"}
_NOT_THE_PROJECTS = ("PORT", "PYTHONHOME", "VIRTUAL_ENV")


@click.command()
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="TCP port. By default that of [serve], or 8080.")
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--python", default="", metavar="PATH", help="An interpreter or environment to use.")
@click.option("-e", "--env", "variables", multiple=True, metavar="NAME=VALUE", help="A variable for the model.")
@click.option("--traceback", is_flag=True, help="Show whole tracebacks.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    help="The server's log: for people or as it is; auto means for people on a terminal.",
)
def command(
    port: int | None, host: str, python: str, variables: tuple[str, ...], traceback: bool, log_format: str
) -> None:
    """Serve the project in this folder without a container, and again whenever one of its files changes.

    It runs in the active environment, the project's .venv, or one that is made for it once.
    """
    project = load_project(Path())
    chosen = port or project.project.serve.port or 8080
    check_port(host, chosen)
    address = {"BERTH_HOST": host, "BERTH_PORT": str(chosen), "BERTH_ACTIVATION_SOCKET": ""}
    extra = {**environment_of(variables), **address}
    desk = _Desk(project.path, Wanted(python, os.environ), extra, project.project)
    raw = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shown = f"[{host}]" if ":" in host else host
    manner = Manner(_say, whole=traceback, raw=raw, url=f"http://{shown}:{chosen}")
    asyncio.run(develop(Project(project.path, desk.plan, desk.files), manner))


@dataclass
class _Desk:
    """The project at this moment, read anew each time."""

    folder: Path
    wanted: Wanted
    extra: Mapping[str, str]
    manifest: Manifest
    told: str = ""

    def plan(self) -> Plan:
        """How to serve it; ProjectError or LockError when it cannot be."""
        folder = load_project(self.folder)
        loaded = find_files(folder).loaded
        settings = settings_of(folder.project, loaded, PurePosixPath(self.folder))
        interpreter = interpreter_for(folder, self.wanted, places.home().cache, lambda text: _say("dim", text))
        self._tell(interpreter)
        return Plan(interpreter.python, self._variables(settings, interpreter), self.folder)

    def files(self) -> list[Path]:
        """The files to watch, by what dockyard.toml says now, or said last when it was right."""
        with suppress(ProjectError):
            self.manifest = load_project(self.folder).project
        return files_to_watch(self.folder, self.manifest)

    def _variables(self, settings: Mapping[str, str], interpreter: Interpreter) -> dict[str, str]:
        """The shell's variables without those that an image would not have, and the image's."""
        shell = self.wanted.variables
        kept = {name: value for name, value in shell.items() if not name.startswith("BERTH_")}
        for name in _NOT_THE_PROJECTS:
            kept.pop(name, None)
        paths = [str(self.folder), *map(str, interpreter.paths), *filter(None, [shell.get("PYTHONPATH", "")])]
        own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        return {**SLEEP_SOON, **kept, **own, **settings, **self.extra}

    def _tell(self, interpreter: Interpreter) -> None:
        text = f"python: {interpreter.python} ({interpreter.why})"
        if text != self.told:
            self.told = text
            _say("dim", text)


def _say(kind: str, line: str) -> None:
    click.secho(line, fg=_COLOURS.get(kind), dim=kind == "dim", err=True)
