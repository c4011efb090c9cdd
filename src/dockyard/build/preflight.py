"""Finds before the first request what would fail at it: shared libraries that nothing in the image brings.

Pure: it judges the facts that `elf` gathered. Called by `builder`, which adds the Debian packages named here and asks
again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dockyard.build.elf import ElfFacts, ElfFile
from dockyard.errors import PreflightError

# Brought by the driver of the machine that has the accelerator; an image must not have them.
_DRIVERS = ("libcuda.so", "libnvidia-", "libnvcuvid.so", "libhsa-runtime", "libamdhip", "libdrm_amdgpu")

# What wheels commonly leave to the system (outside manylinux's own list), and the Debian package that has it.
PACKAGES: Mapping[str, str] = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libGLX.so.0": "libglx0",
    "libGLdispatch.so.0": "libglvnd0",
    "libOpenGL.so.0": "libopengl0",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libxcb.so.1": "libxcb1",
    "libasound.so.2": "libasound2",
    "libatomic.so.1": "libatomic1",
    "libcurl.so.4": "libcurl4",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libgfortran.so.5": "libgfortran5",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libgobject-2.0.so.0": "libglib2.0-0",
    "libgio-2.0.so.0": "libglib2.0-0",
    "libgomp.so.1": "libgomp1",
    "libgssapi_krb5.so.2": "libgssapi-krb5-2",
    "libhdf5_serial.so.103": "libhdf5-103-1",
    "liblapack.so.3": "liblapack3",
    "libblas.so.3": "libblas3",
    "libnuma.so.1": "libnuma1",
    "libopenblas.so.0": "libopenblas0",
    "libpq.so.5": "libpq5",
    "libquadmath.so.0": "libquadmath0",
    "libsndfile.so.1": "libsndfile1",
    "libstdc++.so.6": "libstdc++6",
    "libtbb.so.12": "libtbb12",
    "libxml2.so.2": "libxml2",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libzmq.so.5": "libzmq5",
    "libarchive.so.13": "libarchive13",
    "libmagic.so.1": "libmagic1",
    "libpoppler.so.126": "libpoppler126",
    "libsodium.so.23": "libsodium23",
    "libodbc.so.2": "libodbc2",
}


@dataclass(frozen=True)
class Missing:
    """A library that nothing brings: its soname, a file that needs it, and the Debian package that has it, if known."""

    soname: str
    needed_by: str
    package: str = ""


@dataclass(frozen=True)
class Findings:
    """What the preflight found: libraries an import would miss, and ones only optional plugins ask for."""

    required: tuple[Missing, ...] = ()
    optional: tuple[Missing, ...] = ()
    too_new: tuple[ElfFile, ...] = field(default=())

    @property
    def packages(self) -> tuple[str, ...]:
        """The Debian packages that would mend it."""
        return tuple(sorted({one.package for one in self.required if one.package}))


def check(layers: Sequence[ElfFacts], glibc: tuple[int, ...], known: Mapping[str, str] = PACKAGES) -> Findings:
    """Judge the layers of an image together; `glibc` is the base's version."""
    offered = {name for facts in layers for name in facts.offers}
    files = [file for facts in layers for file in facts.files]
    reached = _reached_by_imports(files)
    required: dict[str, Missing] = {}
    optional: dict[str, Missing] = {}
    for file in files:
        for soname in file.needs:
            if soname in offered or soname.startswith(("ld-linux", *_DRIVERS)):
                continue
            found = required if file.path in reached else optional
            found.setdefault(soname, Missing(soname, file.path, known.get(soname, "")))
    too_new = tuple(file for file in files if file.glibc > tuple(glibc) and file.path in reached)
    return Findings(tuple(required.values()), tuple(optional.values()), too_new)


def refuse(findings: Findings, glibc: tuple[int, ...]) -> None:
    """Raise PreflightError for what no Debian package mends."""
    if findings.too_new:
        file = findings.too_new[0]
        raise PreflightError(
            f"{file.path} needs glibc {_dotted(file.glibc)}, and the base has {_dotted(glibc)}",
            remedy="Take a newer base ([build] suite or base), or an older version of that package.",
        )
    if findings.required:
        lines = [f"  {one.soname}, needed by {one.needed_by}{_hint(one)}" for one in findings.required[:8]]
        named = ", ".join(f'"{package}"' for package in findings.packages)
        raise PreflightError(
            "the image lacks shared libraries that its Python modules load",
            detail="\n".join(lines),
            remedy=f"Add the Debian packages that have them: [build] packages = [{named or '...'}]."
            + ("" if named else " `apt-file search NAME` finds them."),
        )


def _reached_by_imports(files: Iterable[ElfFile]) -> set[str]:
    """The files that are loaded when some extension module is: modules, and what they need, and so on."""
    by_name: dict[str, list[ElfFile]] = {}
    for file in files:
        by_name.setdefault(file.path.rsplit("/", 1)[1], []).append(file)
    waiting = [file for group in by_name.values() for file in group if file.is_extension_module]
    reached = {file.path for file in waiting}
    while waiting:
        for soname in waiting.pop().needs:
            for file in by_name.get(soname, ()):
                if file.path not in reached:
                    reached.add(file.path)
                    waiting.append(file)
    return reached


def _hint(missing: Missing) -> str:
    if missing.package:
        return f" (the Debian package {missing.package} has it)"
    near = difflib.get_close_matches(missing.soname, PACKAGES, n=1, cutoff=0.85)
    return f" (the Debian package {PACKAGES[near[0]]} has {near[0]})" if near else ""


def _dotted(version: Iterable[int]) -> str:
    return ".".join(str(part) for part in version)
