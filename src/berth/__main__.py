"""The command line inside the image: `python -m berth serve | predict | batch | schema | selftest | version`.

Without a word it serves. Settings come from the BERTH_* environment (config.py). Exit codes: 0 fine, 1 the model failed
or a golden differs, 2 a setting is wrong, 3 some rows of a batch failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import berth
from berth.commands import predict, schema, selftest
from berth.config import read_config
from berth.errors import BerthError, ConfigError
from berth.files import File
from berth.log import complain
from berth.scoring.batch import add_arguments, batch
from berth.server import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    here = str(Path.cwd())
    if here not in sys.path:  # `python -m berth` has it, the program `berth` has not
        sys.path.insert(0, here)
    if options.command == "version":
        print(berth.__version__)
        return 0
    try:
        config = read_config(os.environ)
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
    except ConfigError as error:
        complain(str(error))
        return 2
    except BerthError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        complain("the model did not load; the traceback above says why")
        return 1


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


if __name__ == "__main__":
    sys.exit(main())
