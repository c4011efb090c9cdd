"""The command line inside the image: `python -m berth serve | predict | batch | schema | selftest | version`.

Without a word it serves. Settings come from the BERTH_* environment (config.py). Exit codes: 0 fine, 1 the model failed
or a golden differs, 2 a setting is wrong, 3 some rows of a batch failed. A replica that starts takes its processor time
from those that answer, so to serve imports nothing that only the other commands need, not even their parser.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from berth.errors import BerthError, ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    here = os.getcwd()  # noqa: PTH109  pathlib is among what is to be imported below
    if here not in sys.path:  # `python -m berth` has it, the program `berth` has not
        sys.path.insert(0, here)
    if words in ([], ["serve"]):
        server = _imported("berth.server")
        return _run(lambda: server.serve(_imported("berth.config").read_config(os.environ)))
    command_line = _imported("berth.command_line")
    options = command_line.parse(words)
    return _run(lambda: command_line.run(options, os.environ))


def _imported(name: str) -> Any:
    """A module, without looking for garbage meanwhile: imports leave next to none, and each look costs."""
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()  # what was imported is no garbage later either
        gc.enable()


def _run(command: Callable[[], int]) -> int:
    """The command's exit code; or, when it raises, what that means, with the reason on standard error."""
    complain = _imported("berth.log").complain
    try:
        return command()
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


if __name__ == "__main__":
    sys.exit(main())
