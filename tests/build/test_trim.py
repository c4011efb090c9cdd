"""What is left out of wheels, and what stays because something may read it; RECORD is true afterwards."""

from __future__ import annotations

import base64
import csv
import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from dockyard.build.elf import read_facts
from dockyard.build.elf_debug import without_debug
from dockyard.build.installed import divide, owned_files
from dockyard.build.trim import Trimming, trim

PROGRAM = "int twice(int number) { return number + number; }\n"


def install(folder: Path, files: Mapping[str, bytes], name: str = "pkg") -> list[str]:
    """A distribution as an installer leaves it."""
    record = f"{name}-1.0.dist-info/RECORD"
    for path, content in {**files, record: b""}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    lines = [*(f"{path},sha256=x,{len(content)}" for path, content in files.items()), f"{record},,"]
    (folder / record).write_text("\n".join(lines) + "\n")
    return [*files, record]


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared library with debug information."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "twice.c").write_text(PROGRAM)
    words = ["cc", "-g", "-shared", "-fPIC", "-o", folder / "libtwice.so", folder / "twice.c"]
    subprocess.run(words, check=True)
    return folder / "libtwice.so"


def test_tests_and_sources_go_and_the_record_says_so(tmp_path: Path) -> None:
    files = {
        "pkg/__init__.py": b"VALUE = 1\n",
        "pkg/tests/test_a.py": b"",
        "pkg/tests/data.bin": b"0",
        "pkg/core.cpp": b"int a;",
        "pkg/core.h": b"int a;",
        "pkg/py.typed": b"",
    }
    trim(tmp_path, install(tmp_path, files), Trimming())
    assert left(tmp_path) == {"pkg/__init__.py", "pkg/py.typed", "pkg-1.0.dist-info/RECORD"}
    record = (tmp_path / "pkg-1.0.dist-info/RECORD").read_text()
    assert {row[0] for row in csv.reader(record.splitlines())} == left(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "from pkg.tests import helper",
        "from .tests.helper import data",
        "from . import tests",
        "from pkg import tests",
        "import pkg.tests.helper",
        "importlib.import_module('pkg.tests')",
    ],
)
def test_tests_that_a_module_imports_stay(tmp_path: Path, line: str) -> None:
    files = {"pkg/__init__.py": line.encode(), "pkg/tests/helper.py": b"", "pkg/other/tests/test_b.py": b""}
    trim(tmp_path, install(tmp_path, files), Trimming())
    assert "pkg/tests/helper.py" in left(tmp_path)
    assert "pkg/other/tests/test_b.py" not in left(tmp_path)


@pytest.mark.parametrize("line", ["open('kernel.cu.h')", "SOURCES = ['driver.c']", 'compile("#include <warp.h>")'])
def test_sources_stay_where_a_module_names_files_of_their_kind(tmp_path: Path, line: str) -> None:
    files = {"pkg/__init__.py": line.encode(), "pkg/core.h": b"int a;"}
    trim(tmp_path, install(tmp_path, files), Trimming())
    assert "pkg/core.h" in left(tmp_path)


def test_nothing_goes_when_it_is_switched_off_but_what_is_named(tmp_path: Path) -> None:
    files = {
        "pkg/__init__.py": b"",
        "pkg/tests/test_a.py": b"",
        "pkg/large.bin": b"0",
        "pkg-1.0.dist-info/METADATA": b"",
    }
    trim(tmp_path, install(tmp_path, files), Trimming(usual=False, more=("*.bin", "*METADATA")))
    assert left(tmp_path) == {*files, "pkg-1.0.dist-info/RECORD"} - {"pkg/large.bin"}


def test_debug_information_is_blanked_and_nothing_else_moves(tmp_path: Path, library: Path) -> None:
    content = library.read_bytes()
    blank = without_debug(content)
    assert blank is not None
    assert len(blank) == len(content)
    assert b"twice.c" in content
    assert b"twice.c" not in blank
    assert without_debug(blank) is None
    files = install(tmp_path, {"pkg/libtwice.so": content})
    before = read_facts(tmp_path, "/x")
    trim(tmp_path, files, Trimming())
    assert read_facts(tmp_path, "/x") == before
    script = f"import ctypes; print(ctypes.CDLL({str(tmp_path / 'pkg/libtwice.so')!r}).twice(21))"
    assert subprocess.run(["python3", "-c", script], capture_output=True, text=True, check=True).stdout == "42\n"
    digest = base64.urlsafe_b64encode(hashlib.sha256(blank).digest()).rstrip(b"=").decode()
    assert f"pkg/libtwice.so,sha256={digest},{len(blank)}" in (tmp_path / "pkg-1.0.dist-info/RECORD").read_text()


def test_a_file_linked_from_a_cache_stays_as_it_is_there(tmp_path: Path, library: Path) -> None:
    files = install(tmp_path / "here", {"pkg/libtwice.so": b""})
    (tmp_path / "cached").write_bytes(library.read_bytes())
    (tmp_path / "here/pkg/libtwice.so").unlink()
    (tmp_path / "here/pkg/libtwice.so").hardlink_to(tmp_path / "cached")
    trim(tmp_path / "here", files, Trimming())
    assert (
        (tmp_path / "cached").read_bytes() == library.read_bytes() != (tmp_path / "here/pkg/libtwice.so").read_bytes()
    )


@pytest.mark.parametrize("cut", [10, 64, 200, -1, -64])
def test_a_damaged_library_stays_as_it_is(library: Path, cut: int) -> None:
    assert without_debug(library.read_bytes()[:cut]) is None


def test_headers_that_point_into_what_is_loaded_are_believed_nothing(library: Path) -> None:
    """A file that calls its code a debug section keeps every byte."""
    content = bytearray(library.read_bytes())
    table = int.from_bytes(content[40:48], "little")
    count, names = int.from_bytes(content[60:62], "little"), int.from_bytes(content[62:64], "little")
    at = int.from_bytes(content[table + 64 * names + 24 : table + 64 * names + 32], "little")
    title = content.index(b".debug_info\0", at) - at
    for number in range(1, count):
        place = table + 64 * number
        if int.from_bytes(content[place : place + 4], "little") == title:
            content[place + 24 : place + 32] = (0).to_bytes(8, "little")
    assert without_debug(bytes(content)) is None


def test_a_file_that_two_distributions_claim_is_owned_by_none(tmp_path: Path) -> None:
    install(tmp_path, {"shared/__init__.py": b"", "one/a.py": b""}, "one")
    install(tmp_path, {"shared/__init__.py": b"", "two/a.py": b""}, "Two_Part")
    owned = owned_files(tmp_path)
    assert owned["one"] == {"one/a.py", "one-1.0.dist-info/RECORD"}
    assert owned["two-part"] == {"two/a.py", "Two_Part-1.0.dist-info/RECORD"}


def test_large_distributions_have_layers_of_their_own_and_bytecode_goes_along(tmp_path: Path) -> None:
    install(tmp_path, {"big/a.py": b"", "big/data": bytes(8_000_000)}, "big")
    install(tmp_path, {"small/a.py": b"", "loose.txt": b""}, "small")
    big, rest = divide(tmp_path, owned_files(tmp_path))
    assert big.name == "big"
    assert big.holds("big/__pycache__/a.cpython-311.pyc")
    assert not big.holds("small/__pycache__/a.cpython-311.pyc")
    assert rest.name == ""
    assert rest.files == {"small/a.py", "loose.txt", "small-1.0.dist-info/RECORD"}


def test_at_most_ten_have_layers_of_their_own(tmp_path: Path) -> None:
    for number in range(12):
        install(tmp_path, {f"p{number}/data": bytes(8_000_000 + number)}, f"p{number}")
    parts = divide(tmp_path, owned_files(tmp_path))
    assert len(parts) == 11
    assert {"p0/data", "p1/data"} <= parts[-1].files
