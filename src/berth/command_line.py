"""The words that follow `python -m berth`, unless they only say to serve: what they mean, and who does it.

`__main__` calls this, and tells what is raised.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import berth
from berth.commands import predict, schema, selftest
from berth.config import read_config
from berth.files import File
from berth.scoring.batch import add_arguments, batch
from berth.server import serve


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command and its options; SystemExit, after a line that says why, for words that mean nothing."""
    return _parser().parse_args(words)


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Do what was asked; the exit code. Raises what the commands raise."""
    if options.command == "version":
        print(berth.__version__)
        return 0
    config = read_config(environment)
    File.max_pixels = config.limits.max_pixels
    if options.command == "predict":
        return predict(config, options.input)
    if options.command == "batch":
        return batch(config, options)
    if options.command == "schema":
        return schema(config)
    if options.command == "selftest":
        return selftest(config, as_json=options.json)
    return serve(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="berth", description="Serve a model. Settings: BERTH_* environment.")
    commands = parser.add_subparsers(dest="command", metavar="command")
    parser.set_defaults(command="serve")
    commands.add_parser("serve", help="serve requests until SIGTERM (the default)")
    asking = commands.add_parser("predict", help="one prediction; prints the answer as JSON")
    asking.add_argument(
        "-i",
        "--input",
        action="append",
        metavar="NAME=VALUE",
        help="an input; NAME=@FILE reads a file; without any, a JSON object is read from standard input",
    )
    add_arguments(commands.add_parser("batch", help="many rows: JSON lines, CSV or a folder to JSON lines"))
    commands.add_parser("schema", help="print inputs, outputs and their JSON Schema")
    testing = commands.add_parser("selftest", help="answer the goldens and compare")
    testing.add_argument("--json", action="store_true", help="print JSON")
    commands.add_parser("version", help="print the version")
    return parser
