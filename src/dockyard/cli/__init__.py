"""The command line: one file a verb, loaded only when it is asked for, so that each starts fast.

`main` is the console script. Every error that Dockyard raises on purpose ends here, printed with its remedy.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import click

from dockyard import __version__
from dockyard.cli.plain import plain
from dockyard.errors import DockyardError
from dockyard.oci.files import as_store_error

# Verb -> (what it does in a line, module). `help` is read from here, so that listing the verbs imports none of them.
VERBS: Mapping[str, tuple[str, str]] = {
    "init": ("Write a dockyard.toml for the model in a folder.", "init"),
    "dev": ("Serve the project here without a container, again on every change.", "dev"),
    "plan": ("Show what a build would do, before it does it.", "plan"),
    "build": ("Build the project's image, without a daemon.", "build"),
    "update": ("Take newer versions, if the goldens still hold with them.", "update"),
    "keygen": ("Make a pair of keys to sign images with.", "keygen"),
    "sign": ("Sign an image, and what is said of it.", "sign"),
    "verify": ("Check an image's bytes, signatures and evidence.", "verify"),
    "push": ("Send an image to a registry.", "push"),
    "pull": ("Fetch an image from a registry.", "pull"),
    "copy": ("Copy an image from one registry to another.", "copy"),
    "tags": ("List the tags of a repository in a registry.", "tags"),
    "export": ("Write images into one file, for places without a network.", "export"),
    "import": ("Take the images of such a file into the store.", "import_"),
    "images": ("List the images in the local store.", "images"),
    "inspect": ("Show all that is known of an image.", "inspect"),
    "diff": ("Show what two images differ in.", "diff"),
    "scan": ("List the known problems of an image, offline.", "scan"),
    "advisories": ("Import what is known of problems, and say how old it is.", "advisories"),
    "tag": ("Give an image one more name.", "tag"),
    "rm": ("Forget images by their names.", "rm"),
    "gc": ("Free the space of what no image needs.", "gc"),
    "load": ("Make an image known to an engine.", "load"),
    "run": ("Start a container of an image.", "run"),
    "predict": ("Ask a model: an image, a running container or a URL.", "predict"),
    "batch": ("Run the rows of a file or folder through an image.", "batch"),
    "test": ("Run an image's goldens inside the image.", "test"),
    "ps": ("List containers.", "ps"),
    "logs": ("Show the log of a deployment or a container.", "logs"),
    "stop": ("Stop a container and remove it.", "stop"),
    "up": ("Run the yard, which keeps deployments running on this host.", "up"),
    "down": ("Stop the yard with everything that it runs.", "down"),
    "deploy": ("Deploy a project, an image or a deployment file on a yard.", "deploy"),
    "status": ("Show deployments.", "status"),
    "history": ("Show the revisions of a deployment.", "history"),
    "rollback": ("Give the traffic back to an earlier revision.", "rollback"),
    "scale": ("Ask for another number of replicas.", "scale"),
    "restart": ("Replace all replicas without a gap.", "restart"),
    "promote": ("Give the traffic to the revision in preview.", "promote"),
    "abort": ("Give up the rollout under way.", "abort"),
    "delete": ("Stop a deployment and remove it.", "delete"),
    "events": ("Show what happened.", "events"),
    "drift": ("Show what runs otherwise than it was asked for.", "drift"),
    "top": ("Show what deployments do and use.", "top"),
    "audit": ("Read, export and check the audit log.", "audit"),
    "token": ("Make, list and revoke tokens.", "token"),
    "backup": ("Write all that a yard needs into one file.", "backup"),
    "restore": ("Restore a yard that has lost its state.", "restore"),
}


class Verbs(click.Group):
    """The verbs by name; a verb's module has its command as `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order in which one needs them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one verb."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"dockyard.cli.{VERBS[cmd_name][1]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs in `dockyard --help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (text, _) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="dockyard")
def commands() -> None:
    """Turn a trained model into one OCI image, and run it.

    Begin with `dockyard init` in the folder of your model.
    """


def main() -> None:
    """Run the command line and exit: 0 fine, 1 an error that is explained, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM."""
    stopped = _Stopped()
    signal.signal(signal.SIGTERM, stopped.terminate)
    try:
        code = commands.main(standalone_mode=False, color=_colour())
    except DockyardError as error:
        explain(error)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt, _TerminatedError):
        click.echo("\nstopped", err=True)
        code = stopped.code
    except BrokenPipeError:
        # Whoever read our output has left; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        # Disks fill up and folders are closed to us in more places than can be named; the file says where.
        explain(as_store_error(error, Path(str(error.filename or "a file or socket"))))
        code = 1
    sys.exit(code)


class _TerminatedError(BaseException):
    """SIGTERM has come. No KeyboardInterrupt: with one of those, in some places, Python ends itself by SIGINT."""


class _Stopped:
    """SIGTERM ends a command as Ctrl-C does, so that everything it has begun is undone; it exits with 143."""

    def __init__(self) -> None:
        self.code = 130

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """Hand it to whatever handles Ctrl-C now: asyncio has a handler of its own while it runs."""
        self.code = 143
        interrupted = signal.getsignal(signal.SIGINT)
        if not callable(interrupted) or interrupted is signal.default_int_handler:
            raise _TerminatedError
        interrupted(signal.SIGINT, frame)


def explain(error: DockyardError) -> None:
    """Tell people what failed, and how to mend it."""
    colour = _colour()
    click.secho("error: ", fg="red", bold=True, nl=False, err=True, color=colour)
    click.echo(_lines(error.what), err=True)
    if error.detail:
        click.echo(_lines(error.detail), err=True)
    if error.remedy:
        click.secho(_lines(error.remedy), fg="cyan", err=True, color=colour)


def _colour() -> bool | None:
    """No colours for who does not want any (https://no-color.org); otherwise as click decides, on terminals only."""
    return False if os.environ.get("NO_COLOR") else None


def _lines(text: str) -> str:
    """Several lines stay several; what else could move the cursor is shown."""
    return "\n".join(plain(line) for line in text.split("\n"))
