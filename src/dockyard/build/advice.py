"""What is worth knowing before a build, beyond what fails it: size, speed, risks.

Pure: it looks at the project, the lock and sizes. Called by `planner`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dockyard.build.content import LARGE_CODE, ProjectFiles, folder_sizes
from dockyard.build.contents_check import holds_pickle
from dockyard.build.lock import Lock
from dockyard.build.preflight import PACKAGES
from dockyard.build.problem import Problem
from dockyard.build.request import Request
from dockyard.spec.load import FILE_NAME, ProjectFolder

_LARGE_FOLDER = 100 << 20
_CUDA = re.compile(r"^(nvidia-(?!ml-py)|cuda-|triton$|onnxruntime-gpu$|faiss-gpu|cupy-|.*-cu1\d$)")
_BARE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^\]]*\])?\s*(;.*)?$")
# Distributions that link against libraries which their wheels do not bring: the build adds them.
_LINKED: Mapping[str, tuple[str, ...]] = {
    "lightgbm": ("libgomp.so.1",),
    "opencv-contrib-python": ("libGL.so.1", "libgthread-2.0.so.0"),
    "opencv-python": ("libGL.so.1", "libgthread-2.0.so.0"),
}
# Distributions that load a library, or start a program, by its name: no reading of files shows that.
_LOADED: Mapping[str, tuple[str, str]] = {
    "cairocffi": ("libcairo.so.2", "libcairo2"),
    "pdf2image": ("the program pdftoppm", "poppler-utils"),
    "psycopg": ("libpq.so.5", "libpq5"),
    "pydub": ("the program ffmpeg", "ffmpeg"),
    "pytesseract": ("the program tesseract", "tesseract-ocr"),
    "python-magic": ("libmagic.so.1", "libmagic1"),
    "pyusb": ("libusb-1.0.so.0", "libusb-1.0-0"),
    "pyzbar": ("libzbar.so.0", "libzbar0"),
    "weasyprint": ("libpango-1.0.so.0", "libpango-1.0-0"),
}


@dataclass(frozen=True)
class Subject:
    """What advice is given on."""

    folder: ProjectFolder
    files: ProjectFiles
    request: Request
    lock: Lock
    sizes: Mapping[str, int]


def advice(subject: Subject) -> Iterator[Problem]:
    """All of it."""
    yield from _accelerators(subject.lock, subject.sizes)
    yield from _libraries(subject.lock)
    yield from _large_folders(subject.folder, subject.files)
    yield from _pickles(subject.folder, subject.files)
    yield from _unbounded(subject.folder, subject.request)


def is_cuda(name: str, version: str) -> bool:
    """Whether a wheel is of use only with an NVIDIA accelerator."""
    return bool(_CUDA.match(name)) or "+cu" in version


def _accelerators(lock: Lock, sizes: Mapping[str, int]) -> Iterator[Problem]:
    found = [wheel for wheel in lock.wheels if is_cuda(wheel.name, wheel.version)]
    if not found:
        return
    size = sum(sizes.get(wheel.name, 0) for wheel in found)
    names = ", ".join(wheel.name for wheel in found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
    large = f", {size / 1e6:,.0f} MB" if size else ""
    yield Problem(
        "warning",
        "cuda",
        f"the image is for CPUs, and {len(found)} wheels for CUDA were resolved{large}: {names}",
        "Take the CPU build: onnxruntime in place of onnxruntime-gpu; for torch, let uv look into its index for CPUs "
        "(UV_INDEX) and lock anew.",
    )


def _libraries(lock: Lock) -> Iterator[Problem]:
    wheels = {wheel.name for wheel in lock.wheels}
    system = {package.name.removesuffix("t64") for package in (*lock.base, *lock.system)}
    for name in sorted(wheels & _LINKED.keys()):
        missing = [one for one in _LINKED[name] if PACKAGES[one] not in system]
        if missing:
            packages = ", ".join(sorted({PACKAGES[one] for one in missing}))
            what = f"{name} needs {', '.join(missing)}, which its wheel does not bring"
            yield Problem("note", "system-library", what, f"The build adds {packages}.")
    for name in sorted(wheels & _LOADED.keys()):
        library, package = _LOADED[name]
        if package not in system and not (name == "psycopg" and "psycopg-binary" in wheels):
            what = f"{name} needs {library}, which its wheel does not bring"
            yield Problem("warning", "system-library", what, f'Add it: [build] packages = ["{package}"].')


def _large_folders(folder: ProjectFolder, files: ProjectFiles) -> Iterator[Problem]:
    sizes = folder_sizes(folder.path, files.code)
    refused = sum(sizes.values()) > LARGE_CODE
    large = sorted((name for name in sizes if sizes[name] >= _LARGE_FOLDER), key=lambda name: -sizes[name])
    for name in large:
        yield Problem(
            "error" if refused else "warning",
            "large-folder",
            f"{name} has {sizes[name] / 1e6:,.0f} MB, which would lie in the layer of code",
            f'Weights belong in [model] weights; data stays out by [build] exclude = ["{name}"].',
        )
    if refused and not large:
        what = f"the project has {sum(sizes.values()) / 1e6:,.0f} MB of files besides its weights"
        yield Problem("error", "large-folder", what, "Keep data out with [build] exclude.")


def _pickles(folder: ProjectFolder, files: ProjectFiles) -> Iterator[Problem]:
    for name in files.weights:
        if holds_pickle(folder, name):
            yield Problem(
                "warning",
                "pickle",
                f"{name} is a pickle: whoever can write that file can run code in the container that loads it",
                "Serve only files that you made, or export the model to ONNX.",
            )


def _unbounded(folder: ProjectFolder, request: Request) -> Iterator[Problem]:
    bare = [one for one in _own_requirements(folder, request.files) if _BARE.match(one.strip())]
    if bare:
        yield Problem(
            "note",
            "unpinned",
            f"no bound on the version of {', '.join(bare)}",
            f"The lock pins what is resolved now; a bound in {FILE_NAME} says what an update may take.",
        )


def _own_requirements(folder: ProjectFolder, files: Sequence[Path]) -> list[str]:
    """The project's requirements, from wherever it keeps them."""
    listed = folder.project.build.requirements
    if not isinstance(listed, str):
        return list(listed)
    found: list[str] = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        if file.name == "pyproject.toml":
            found += tomllib.loads(text).get("project", {}).get("dependencies", ())
        else:
            lines = (line.partition(" #")[0].strip() for line in text.splitlines())
            found += [line for line in lines if line and not line.startswith(("#", "-"))]
    return found
