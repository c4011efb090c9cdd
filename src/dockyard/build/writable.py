"""Where libraries keep their caches in a container whose root is read-only.

HOME and XDG_CACHE_HOME lead to the container's tmpfs, and the caches of Hugging Face, PyTorch, matplotlib, numba and
others follow from these two; so they need no variables of their own, only that none leads elsewhere. Called by
`builder` before a build, and by `assemble` for the variables that a base brings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from dockyard.build.problem import Problem
from dockyard.spec.load import FILE_NAME

_WRITABLE = ("/tmp", "/dev/shm")  # noqa: S108  places inside a container
# Files of the project may be served out of these, read-only.
_HUBS = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "TORCH_HOME", "NLTK_DATA")
_CACHES = (
    "HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR",
    "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH", "TFHUB_CACHE_DIR",
    "KERAS_HOME", "JAX_COMPILATION_CACHE_DIR", "HF_DATASETS_CACHE", "PYTHONPYCACHEPREFIX", "JOBLIB_TEMP_FOLDER",
)  # fmt: skip
VARIABLES = (*_CACHES, *_HUBS)


def find_unwritable(environment: Mapping[str, str], files: Iterable[str]) -> Iterator[Problem]:
    """An error for each of the project's variables that names a cache where nothing can be written.

    `files` are those of the project, which lie in /app.
    """
    for name in VARIABLES:
        value = environment.get(name, "")
        if value and not is_writable(value) and not (name in _HUBS and _holds(value, files)):
            yield Problem(
                "error",
                "read-only-cache",
                f"{FILE_NAME}: environment.{name} is {value!r}, and a container can write only below /tmp",
                f'Leave it out (caches go below /tmp by themselves), or set {name} = "/tmp/...".',
            )


def is_closed(name: str, value: str) -> bool:
    """Whether a variable is of a cache, and leads where nothing can be written."""
    return name in _CACHES and not is_writable(value)


def is_writable(path: str) -> bool:
    """Whether a container can write to `path`."""
    parts = PurePosixPath(path)
    inside = any(parts.is_relative_to(place) for place in _WRITABLE) and ".." not in parts.parts
    return inside or path == "~" or path.startswith("~/")


def _holds(value: str, files: Iterable[str]) -> bool:
    """Whether the project brings files for the folder `value`."""
    folder = PurePosixPath("/app") / value
    return any((PurePosixPath("/app") / name).is_relative_to(folder) for name in files)
