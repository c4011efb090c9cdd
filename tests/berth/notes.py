"""Where the predictors of these tests may leave a note: in the temporary folder, whatever a request says.

Requests are also made at random here (hypothesis, schemathesis), and a path from one of those must never become a file.
"""

import pathlib
import tempfile

import berth

_FOLDER = pathlib.Path(tempfile.gettempdir()).resolve()


def note_at(path: str) -> pathlib.Path | None:
    """The file that a test named; None for no name. InputError for one elsewhere, or in a folder that is not there."""
    if not path:
        return None
    try:
        found = pathlib.Path(path).resolve()
        absolute = pathlib.Path(path).is_absolute()
        if absolute and found.parent.is_dir() and found.parent != _FOLDER and found.is_relative_to(_FOLDER):
            return found
    except (OSError, ValueError):  # too long, or with a zero in it
        pass
    raise berth.InputError("note: expected a file in a folder of the test's own")
