"""`dockyard batch`: many rows through an image, in one container that is gone afterwards.

Rows go in through the container's standard input and answers come out of its standard output, so it needs no folder of
the host, no network and no right to write anywhere. The output file is this process's: it belongs to whoever types the
command, and is continued where it ends.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import click

from berth.errors import InputError
from berth.scoring.output import Output, Resumable, is_pipe, open_output, origin_of
from berth.scoring.sources import delimiter_of, files_of, format_of
from dockyard.cli import compose, places
from dockyard.cli.feeding import bytes_of_file, bytes_of_pipe, tar_of
from dockyard.cli.launching import Wish, environment_of, limits
from dockyard.engines.base import Attached, ContainerSpec, Engine
from dockyard.engines.base import Output as Written
from dockyard.engines.once import converse
from dockyard.errors import DockyardError
from dockyard.oci.image import Image
from dockyard.spec.resources import parse_bytes

SOME_FAILED = 3
_STOPPED = (130, 143)
_GRACE_S = 30.0  # more than berth's own for what is in flight


@dataclass(frozen=True)
class Job:
    """What to run, and how: both ends, and berth's words for what is between."""

    source: str
    target: str
    kind: str
    words: tuple[str, ...]
    restart: bool


@click.command()
@click.argument("image")
@click.argument("source", metavar="INPUT")
@click.option("-o", "--output", "target", default="-", metavar="FILE", help="Where the answers go; continued if there.")
@click.option("-f", "--format", "kind", type=click.Choice(["jsonl", "csv", "folder", "tar"]), help="How INPUT is read.")
@click.option("--restart", is_flag=True, help="Overwrite the output instead of continuing it.")
@click.option("--delimiter", default="", metavar="CHARACTER", help="Between the cells of a CSV.")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="Leave out a column of a CSV.")
@click.option("-e", "--env", "variables", multiple=True, metavar="NAME=VALUE", help="A variable for the model.")
@click.option("--memory", help="Limit, such as 512MiB.")
@click.option("--cpus", type=click.FloatRange(0.01), help="Limit; may be a fraction.")
@click.option("--pids", type=click.IntRange(1), help="Limit of processes and threads.")
@compose.engine_option("What starts the container.")
def command(
    image: str,
    source: str,
    target: str,
    kind: str | None,
    restart: bool,
    delimiter: str,
    ignore: tuple[str, ...],
    variables: tuple[str, ...],
    memory: str | None,
    cpus: float | None,
    pids: int | None,
    engine: str,
) -> None:
    """Run every row of INPUT through IMAGE and write JSON lines.

    INPUT is a file of JSON lines, a CSV, a folder of files, or - for standard input. A row that fails is a line with
    its error; the exit code is then 3. An output that is there is continued after its last row.
    """
    found = places.runnable(image)
    try:
        read_as = format_of(source, kind or "")
        words = _words(read_as, delimiter_of(source, delimiter), delimiter, ignore)
        job = Job(source, target, read_as, words, restart)
        output, files = _open(job, found)
    except InputError as error:
        raise DockyardError(str(error)) from error
    resources = limits(found, parse_bytes(memory) if memory else None, cpus, pids)
    wish = Wish(found, image, f"batch-{secrets.token_hex(4)}", environment_of(variables), resources)
    raise SystemExit(asyncio.run(_batch(job, wish, output, files, engine)))


def _words(kind: str, parted_by: str, delimiter: str, ignore: tuple[str, ...]) -> tuple[str, ...]:
    if kind != "csv":
        if delimiter or ignore:
            raise click.UsageError("--delimiter and --ignore are for CSV.")
        return ()
    return ("--delimiter", parted_by, *(word for column in ignore for word in ("--ignore", column)))


def _open(job: Job, image: Image) -> tuple[Output, list[str]]:
    """The output, and the files of an input that is a folder."""
    folder = Path(job.source)
    files = files_of(folder) if job.kind == "folder" else []
    if files and job.target != "-" and Path(job.target).resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{job.target} lies in {job.source}, whose files are the rows; write it elsewhere")
    if is_pipe(job.source):
        return open_output(job.target, None, restart=job.restart), files
    reading = " ".join([job.kind, *job.words])
    origin = origin_of(folder, reading, files if job.kind == "folder" else None, f"image {image.digest}")
    return open_output(job.target, origin, restart=job.restart), files


async def _batch(job: Job, wish: Wish, output: Output, files: list[str], engine_name: str) -> int:
    answers = _Answers(output)
    try:
        async with compose.chosen_engine(engine_name) as engine:
            await engine.load(wish.image, places.store(), wish.image_name)
            code = await _run(engine, wish.spec(_command(job, output, files)), _feed(job, files, output.rows), answers)
    finally:
        output.close()
    return _tell(job, output, answers, code)


def _command(job: Job, output: Output, files: list[str]) -> tuple[str, ...]:
    total: tuple[str, ...] = ()
    if job.kind == "folder":
        total = ("--total", str(len(files)))
    elif job.kind != "tar" and not is_pipe(job.source):
        total = ("--total", str(Path(job.source).stat().st_size))
    kind = "tar" if job.kind == "folder" else job.kind
    progress = "live" if sys.stderr.isatty() else "lines"
    skip = ("--skip", str(output.rows))
    return ("batch", "-", "--format", kind, *job.words, *total, *skip, "--progress", progress)


def _feed(job: Job, files: list[str], done: int) -> AsyncIterator[bytes]:
    if job.kind == "folder":
        return tar_of(Path(job.source), files, done)
    return bytes_of_pipe(0) if job.source == "-" else bytes_of_file(Path(job.source))


class _Answers:
    """Whole lines from the container to the output; its standard error goes to ours."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._rest = b""
        self.rows = output.rows

    def hear(self, written: Written) -> None:
        """Something the container wrote."""
        if written.stream == "stderr":
            sys.stderr.buffer.write(written.data)
            sys.stderr.buffer.flush()
            return
        lines, newline, rest = written.data.rpartition(b"\n")
        if not newline:
            self._rest += written.data
            return
        try:
            self._output.write(self._rest + lines + newline)
        except InputError as error:
            raise DockyardError(str(error), remedy="The same command goes on from there.") from error
        self.rows += lines.count(b"\n") + 1
        self._rest = rest


async def _run(engine: Engine, spec: ContainerSpec, feed: AsyncIterator[bytes], answers: _Answers) -> int:
    async with engine.attach(spec) as attached:
        stopping = _stop_on_signals(engine, attached)
        try:
            return await converse(engine, attached, feed, answers.hear)
        finally:
            await asyncio.gather(*stopping, return_exceptions=True)


def _stop_on_signals(engine: Engine, attached: Attached) -> list[asyncio.Task[int | None]]:
    """The first signal stops the container, which finishes what it has begun; the second removes it at once."""
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    tasks: list[asyncio.Task[int | None]] = []

    def stop() -> None:
        if tasks and main is not None:
            main.cancel()
        tasks.append(asyncio.ensure_future(engine.stop(attached.container.id, _GRACE_S)))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    return tasks


def _tell(job: Job, output: Output, answers: _Answers, code: int) -> int:
    if code in (0, SOME_FAILED):
        if output.failed:
            click.echo(f"{output.failed:,} rows had failed before", err=True)
        return SOME_FAILED if output.failed else code
    again = "The same command goes on from there." if isinstance(output, Resumable) and not is_pipe(job.source) else ""
    if code in _STOPPED:
        click.echo(f"stopped after row {answers.rows:,}. {again}", err=True)
        return 130
    raise DockyardError(
        f"the batch ended with exit code {code} after row {answers.rows:,}",
        remedy=f"What it said stands above. {again}".strip(),
    )
