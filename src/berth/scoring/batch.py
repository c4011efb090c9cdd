"""`berth batch`: from the words of the command line to the exit code. `__main__` calls it."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from pathlib import Path

import uvloop

from berth.config import Config, ModelSettings
from berth.errors import ConfigError, InputError
from berth.loading import fork_template, start_model
from berth.scoring.inputs import decoder
from berth.scoring.output import STDOUT, Origin, Output, Stream, is_pipe, open_output, origin_of
from berth.scoring.progress import MODES, Progress
from berth.scoring.score import Window, score
from berth.scoring.sources import FORMATS, Source, delimiter_of, files_of, format_of, open_source
from berth.workers.template import Template

SOME_FAILED = 3
_KILL_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("input", help="a file of JSON lines or CSV, a folder of files, or - for standard input")
    add("-o", "--output", default=STDOUT, metavar="FILE", help="where the answers go, continued if there; default: -")
    add("-f", "--format", default="", choices=FORMATS, help="how the input is read; by default what its name says")
    add("--restart", action="store_true", help="overwrite the output instead of continuing it")
    add("--delimiter", default="", metavar="CHARACTER", help="between the cells of a CSV; a comma, or a tab for .tsv")
    add("--ignore", action="append", default=[], metavar="COLUMN", help="leave out a column of a CSV")
    add("--model", default="", metavar="NAME", help="one of several models; by default the first")
    add("--progress", default="auto", choices=MODES, help="on standard error; auto: live on a terminal, else lines")
    add("--skip", type=_count, default=0, metavar="ROWS", help="leave out the first rows, which were done elsewhere")
    add("--total", type=_count, default=None, metavar="N", help="how much a pipe brings: bytes, or files of a tar")


def batch(config: Config, options: argparse.Namespace) -> int:
    """Run a batch; 0 when every row was answered, 3 when some failed, 130 or 143 after a signal."""
    settings = _model(config, options.model)
    kind = format_of(options.input, options.format)
    delimiter = _delimiter(options)
    _check(options, kind)
    source = open_source(options.input, kind, delimiter, config.limits.max_body_bytes)
    reading = " ".join([kind, *([repr(delimiter), *options.ignore] if kind == "csv" else [])])
    output = open_output(options.output, _origin(options, reading, settings), restart=options.restart)
    if isinstance(output, Stream):
        os.dup2(2, 1)  # what a predictor prints must not come between the answers
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_while_loading)
    template = fork_template([settings])
    job = _Job(config, settings, options, kind, source, output)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(job.run(template))
    finally:
        if template is not None:
            template.close()
        source.close()


class _Job:
    """One batch, open at both ends."""

    def __init__(
        self,
        config: Config,
        settings: ModelSettings,
        options: argparse.Namespace,
        kind: str,
        source: Source,
        output: Output,
    ) -> None:
        self._config = config
        self._settings = settings
        self._options = options
        self._kind = kind
        self._source = source
        self._output = output
        self._signal = 0
        self._progress = Progress(options.progress, source.total if source.total is not None else options.total)

    async def run(self, template: Template | None) -> int:
        """Load the model, run the rows, say how it ended."""
        try:
            executor, model = await start_model(self._settings, template, self._event)
            try:
                decode = decoder(model, self._kind, self._source.header, self._options.ignore)
                window = Window(model, executor, self._settings.serving, self._progress.say)
                self._catch_signals(window)
                await self._skip()
                self._progress.begin()
                await score(self._source, decode, window, self._output, self._progress)
            finally:
                await executor.close(0.0 if self._signal else _KILL_S)
        finally:
            self._output.close()
        return self._tell()

    async def _skip(self) -> None:
        done = self._output.rows or self._options.skip
        self._progress.rows, self._progress.failed = done, self._output.failed
        if done:
            self._progress.say(f"going on after row {done:,}")
            self._progress.position = await asyncio.to_thread(self._source.skip, done)

    def _catch_signals(self, window: Window) -> None:
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            if self._signal:
                os._exit(128 + number)  # asked twice: at once
            self._signal = number
            self._source.stop()
            window.shut()
            loop.call_later(self._config.limits.drain_timeout, window.give_up, "")
            self._progress.say("stopping: what runs is finished first")

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)

    def _event(self, level: str, message: str, **fields: object) -> None:
        if level in ("warning", "error"):
            details = "".join(f", {name}: {value}" for name, value in fields.items())
            self._progress.say(f"{message}{details}")

    def _tell(self) -> int:
        progress = self._progress
        if self._options.progress != "none":
            progress.say(progress.text())
        if self._signal:
            resumable = not isinstance(self._output, Stream) and not is_pipe(self._options.input)
            mend = "; the same command goes on from there" if resumable else ""
            progress.say(f"stopped after row {progress.rows:,}{mend}")
            return 128 + self._signal
        if progress.failed:
            progress.say(f'{progress.failed:,} rows failed; their lines have "error" in place of "output"')
            return SOME_FAILED
        return 0


def _model(config: Config, name: str) -> ModelSettings:
    if not name:
        return config.model
    for model in reversed(config.models):
        if model.name == name:
            return model
    raise ConfigError(f"--model {name}: no such model; there is {', '.join(sorted({m.name for m in config.models}))}")


def _delimiter(options: argparse.Namespace) -> str:
    delimiter = delimiter_of(options.input, options.delimiter.replace("\\t", "\t"))
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ConfigError(f"--delimiter {options.delimiter!r}: expected one character, such as ; or \\t")
    return delimiter


def _check(options: argparse.Namespace, kind: str) -> None:
    if options.skip and options.output != STDOUT:
        raise ConfigError("--skip is for answers that go to standard output; a file is continued by itself")
    if kind != "csv" and (options.delimiter or options.ignore):
        raise ConfigError("--delimiter and --ignore are for CSV")
    if kind == "folder" and options.output != STDOUT:
        inside = Path(options.output).resolve().is_relative_to(Path(options.input).resolve())
        if inside:
            raise InputError(f"{options.output} lies in {options.input}, whose files are the rows; write it elsewhere")


def _origin(options: argparse.Namespace, reading: str, settings: ModelSettings) -> Origin | None:
    """What the rows are made from, where both ends can be continued."""
    place = Path(options.output)
    if options.output == STDOUT or (place.exists() and not place.is_file()) or is_pipe(options.input):
        return None
    folder = Path(options.input)
    files = files_of(folder) if folder.is_dir() else None
    return origin_of(folder, reading, files, f"{settings.name} {settings.version}")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("expected 0 or more")
    return value


def _stop_while_loading(number: int, _: object) -> None:
    os._exit(128 + number)  # nothing is in flight, and a thread inside the user's load() cannot be asked to stop
