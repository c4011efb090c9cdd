"""Which Python modules can be imported from a folder, and which distribution likely has a module.

Read off the names of files, nothing is imported. Called when a layer of wheels or Debian packages is made; the answer
is kept with the layer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

_MODULE = re.compile(r"^(?P<name>[^.]+)(?:\.py|\.pyc|(?:\.[^/]+)?\.so)$")
_NO_MODULES = ("bin", "share", "include", "etc", "man", "__pycache__")

# Modules whose distribution has another name, as people meet them in models' code.
DISTRIBUTIONS: Mapping[str, str] = {
    "Crypto": "pycryptodome", "PIL": "pillow", "bs4": "beautifulsoup4", "catboost": "catboost", "cv2":
    "opencv-python-headless", "dateutil": "python-dateutil", "docx": "python-docx", "dotenv": "python-dotenv",
    "faiss": "faiss-cpu", "fitz": "pymupdf", "google": "protobuf", "grpc": "grpcio", "jwt": "pyjwt", "magic":
    "python-magic", "mpl_toolkits": "matplotlib", "pkg_resources": "setuptools", "pptx": "python-pptx", "pylab":
    "matplotlib", "serial": "pyserial", "skimage": "scikit-image", "sklearn": "scikit-learn", "umap": "umap-learn",
    "usb": "pyusb", "yaml": "pyyaml", "zmq": "pyzmq",
}  # fmt: skip


def modules_in(folder: Path) -> tuple[str, ...]:
    """The top-level modules and packages in a folder of sys.path, sorted; empty when there is no such folder."""
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        return tuple(sorted({_module_of(entry.name, is_folder=entry.is_dir()) for entry in entries} - {""}))


def modules_among(paths: Iterable[str]) -> tuple[str, ...]:
    """The same of files, by their paths relative to a folder of sys.path."""
    tops = {(path.partition("/")[0], "/" in path) for path in paths}
    return tuple(sorted({_module_of(name, is_folder=is_folder) for name, is_folder in tops} - {""}))


def _module_of(name: str, *, is_folder: bool) -> str:
    """The module that a file or folder is; empty when it is none."""
    if is_folder:
        return name if name.isidentifier() and name not in _NO_MODULES else ""
    match = _MODULE.match(name)
    return match["name"] if match and match["name"].isidentifier() else ""


def modules_of_system(root: Path) -> tuple[str, ...]:
    """The modules of an unpacked base, or of Debian packages on top of it: the standard library's and others'.

    The library of the image's Python may have modules that this machine's no longer has.
    """
    folders: Iterable[Path] = [
        *root.glob("usr/lib/python3.*"),
        *root.glob("usr/local/lib/python3.*"),
        *root.glob("usr/lib/python3*/*-packages"),
        *root.glob("usr/local/lib/python3*/*-packages"),
        *root.glob("usr/lib64/python3*/site-packages"),
        *root.glob("opt/venv/lib/python3*/site-packages"),
        root / "opt/dependencies",  # of an image that Dockyard built
    ]
    return tuple(sorted({name for folder in folders for name in modules_in(folder)}))


def distribution_of(module: str) -> str:
    """The distribution that likely has a module."""
    return DISTRIBUTIONS.get(module, module.replace("_", "-").lower())
