"""The preflight's facts agree with binutils, and its judgement with what a loader would do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dockyard.build.elf import ElfFacts, ElfFile, read_facts
from dockyard.build.preflight import check, refuse
from dockyard.errors import PreflightError

MODULE = "/opt/dependencies/m/core.abi3.so"


def facts(*files: ElfFile, offers: tuple[str, ...] = ()) -> ElfFacts:
    return ElfFacts(files, (*offers, *(file.path.rsplit("/", 1)[1] for file in files)))


def test_facts_agree_with_readelf() -> None:
    """Every shared library of an installed numpy: the same needs, sonames and newest glibc."""
    package = Path(np.__file__).parent.parent
    found = [folder for folder in (package / "numpy", package / "numpy.libs") if folder.is_dir()]
    checked = 0
    for folder in found:
        for file in read_facts(folder, str(folder)).files:
            dynamic = subprocess.run(["readelf", "-dV", file.path], capture_output=True, text=True, check=True).stdout
            needs = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
            soname = re.findall(r"\(SONAME\).*\[(.+)\]", dynamic)
            wanted = dynamic.partition("Version needs section")[2]
            versions = [tuple(map(int, text.split("."))) for text in re.findall(r"GLIBC_([0-9.]+)", wanted)]
            assert file.needs == tuple(sorted(needs)), file.path
            assert file.soname == "".join(soname), file.path
            assert file.glibc == max(versions, default=()), file.path
            checked += 1
    assert checked > 10


def test_a_file_that_only_looks_like_a_library_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "libtext.so").write_text("/* GNU ld script */ GROUP ( libc.so.6 )")
    (tmp_path / "libcut.so").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(20))
    assert read_facts(tmp_path, "/x").files == ()


def test_a_missing_library_is_named_with_the_file_and_its_debian_package() -> None:
    findings = check([facts(ElfFile(MODULE, ("libGL.so.1", "libc.so.6")), offers=("libc.so.6",))], (2, 36))
    assert findings.packages == ("libgl1",)
    assert [(one.soname, one.needed_by) for one in findings.required] == [("libGL.so.1", MODULE)]


def test_what_another_layer_offers_is_not_missing() -> None:
    findings = check([facts(ElfFile(MODULE, ("libfoo.so.1",))), ElfFacts(offers=("libfoo.so.1",))], (2, 36))
    assert findings.required == ()


def test_needs_are_followed_through_libraries() -> None:
    inner = ElfFile("/opt/dependencies/m.libs/libinner.so", ("libunknown.so.3",), soname="libinner.so")
    findings = check([facts(ElfFile(MODULE, ("libinner.so",)), inner)], (2, 36))
    with pytest.raises(PreflightError) as caught:
        refuse(findings, (2, 36))
    assert "libunknown.so.3, needed by /opt/dependencies/m.libs/libinner.so" in caught.value.detail
    assert "packages" in caught.value.remedy


def test_a_plugin_that_no_import_reaches_is_only_a_note() -> None:
    plugin = ElfFile("/opt/dependencies/m/providers_cuda.so", ("libcudart.so.12",))
    findings = check([facts(ElfFile(MODULE, ()), plugin)], (2, 36))
    assert findings.required == ()
    assert [one.soname for one in findings.optional] == ["libcudart.so.12"]


def test_drivers_are_never_expected_in_an_image() -> None:
    findings = check([facts(ElfFile(MODULE, ("libcuda.so.1", "libnvidia-ml.so.1")))], (2, 36))
    assert (findings.required, findings.optional) == ((), ())


def test_symbols_newer_than_the_base_are_refused() -> None:
    findings = check([facts(ElfFile(MODULE, (), (2, 38)))], (2, 36))
    with pytest.raises(PreflightError, match=r"needs glibc 2\.38, and the base has 2\.36"):
        refuse(findings, (2, 36))
