"""Advisories from their files into the database, and a scan of packages by it."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from pathlib import Path

import pytest

from dockyard.errors import AdvisoryError
from dockyard.oci.digest import digest_of_file
from dockyard.oci.meter import Limits
from dockyard.supply.advisories import archives
from dockyard.supply.advisories.database import opened
from dockyard.supply.advisories.importing import import_files
from dockyard.supply.advisories.inventory import Package, SystemPart, inventory
from dockyard.supply.advisories.scan import Problem, Report, compared, scan
from tests.support.osv import affected, record, tracked, write_archive, write_json

SIMPLE = ({"introduced": "0"}, {"fixed": "2.0"})
GHSA = record(
    "GHSA-aaaa-bbbb-cccc",
    affected("PyPI", "Some.Thing", *SIMPLE, versions=["1.0", "1.1"]),
    affected("npm", "some-thing", *SIMPLE),
    aliases=["CVE-2031-0001"],
    summary="It answers too much",
    database_specific={"severity": "HIGH"},
)
PYSEC = record(
    "PYSEC-2031-7",
    affected("PyPI", "some-thing", {"introduced": "0"}, {"fixed": "2.0.0"}),
    aliases=["CVE-2031-0001", "GHSA-aaaa-bbbb-cccc"],
    severity=[{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
)
WITHDRAWN = record("PYSEC-2031-8", affected("PyPI", "some-thing", *SIMPLE), withdrawn="2031-06-01T00:00:00Z")
ELSEWHERE = record("GHSA-npm", affected("npm", "left", *SIMPLE))
CVE_ONE = record(
    "DEBIAN-CVE-2031-0100",
    affected("Debian:12", "openthing", {"introduced": "0"}, {"fixed": "3.0-1+deb12u2"}),
    affected("Debian:13", "openthing", {"introduced": "0"}, {"fixed": "3.1-1"}),
    upstream=["CVE-2031-0100"],
)
CVE_TWO = record(
    "DEBIAN-CVE-2031-0200", affected("Debian:12", "openthing", {"introduced": "0"}), upstream=["CVE-2031-0200"]
)
BULLETIN = record(
    "DSA-9999-1",
    affected("Debian:12", "openthing", {"introduced": "0"}, {"fixed": "3.0-1+deb12u2"}),
    upstream=["CVE-2031-0100", "CVE-2031-0300", "DEBIAN-CVE-2031-0100"],
)
TRACKER = {
    "openthing": {
        "CVE-2031-0200": {
            "scope": "local",
            "description": "It is slow",
            "releases": {
                "bookworm": tracked("open", nodsa="Minor issue", nodsa_reason="", urgency="low"),
                "sid": tracked("resolved", "3.2-1"),
            },
        },
        "CVE-2031-0400": {"releases": {"bookworm": tracked("resolved", "0")}},
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "advisories"


@pytest.fixture
def pypi(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "pypi.zip", GHSA, PYSEC, WITHDRAWN, ELSEWHERE)


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "debian.zip", CVE_ONE, CVE_TWO, BULLETIN)


@pytest.fixture
def tracker(tmp_path: Path) -> Path:
    return write_json(tmp_path / "tracker.json", TRACKER)


def report(folder: Path, *packages: Package) -> Report:
    with opened(folder) as advisories:
        return scan(packages, advisories)


def brief(problem: Problem) -> tuple[str, str, str, str]:
    return problem.id, problem.status.value, problem.fixed, problem.severity


THING = Package("PyPI", "some-thing", "1.1")
OPEN = Package("Debian:12", "openthing", "3.0-1+deb12u1", ("libopenthing3",))


def test_records_of_one_problem_are_one_problem(folder: Path, pypi: Path) -> None:
    import_files([pypi], folder)
    found = report(folder, THING)
    assert [brief(one) for one in found.problems] == [("CVE-2031-0001", "fixed-available", "2.0", "critical")]
    assert found.problems[0].ids == ("CVE-2031-0001", "GHSA-aaaa-bbbb-cccc", "PYSEC-2031-7")
    assert found.problems[0].summary == "It answers too much"
    assert found.unchecked == ()
    assert report(folder, Package("PyPI", "some-thing", "2.0")).problems == ()


def test_a_bulletin_belongs_to_each_problem_that_it_reports(folder: Path, debian: Path, tracker: Path) -> None:
    import_files([debian, tracker], folder)
    found = {one.id: one for one in report(folder, OPEN).problems}
    assert {name: one.status.value for name, one in found.items()} == {
        "CVE-2031-0100": "fixed-available",
        "CVE-2031-0200": "nodsa",
        "CVE-2031-0300": "fixed-available",
    }
    assert found["CVE-2031-0100"].ids == ("CVE-2031-0100", "DEBIAN-CVE-2031-0100", "DSA-9999-1")
    assert found["CVE-2031-0200"].severity == "low"


def test_debian_is_matched_by_release_and_source(folder: Path, debian: Path) -> None:
    import_files([debian], folder)
    trixie = Package("Debian:13", "openthing", "3.0-9")
    assert [brief(one)[:3] for one in report(folder, trixie).problems] == [
        ("CVE-2031-0100", "fixed-available", "3.1-1")
    ]
    parts = [SystemPart("libopenthing3", "openthing", "3.0-1"), SystemPart("openthing-bin", "openthing", "3.0-1")]
    (package,) = inventory([], parts, ("debian", "12"))
    assert package == Package("Debian:12", "openthing", "3.0-1", ("libopenthing3", "openthing-bin"))


def test_an_ecosystem_without_advisories_is_unchecked_and_not_clean(folder: Path, pypi: Path, tmp_path: Path) -> None:
    import_files([pypi], folder)
    assert report(folder, OPEN, THING).unchecked == (("Debian:12", 1),)
    import_files([write_json(tmp_path / "one.json", CVE_ONE)], folder, keep=False)
    single = report(folder, OPEN, THING)
    assert single.unchecked == (("Debian:12", 1), ("PyPI", 1))
    assert [one.id for one in single.problems] == ["CVE-2031-0100"]


def test_unreadable_versions_are_undecidable(folder: Path, pypi: Path) -> None:
    import_files([pypi], folder)
    odd = report(folder, Package("PyPI", "some-thing", "of yesterday"))
    assert [brief(one)[:2] for one in odd.problems] == [("CVE-2031-0001", "undecidable")]


def test_sources_are_remembered(folder: Path, pypi: Path, debian: Path, tracker: Path) -> None:
    import_files([pypi, debian, tracker], folder)
    with opened(folder) as advisories:
        told = {one.title: one for one in advisories.sources}
    assert list(told) == ["Debian security tracker", "OSV Debian", "OSV PyPI"]
    source = told["OSV PyPI"]
    assert f"sha256:{source.sha256}" == digest_of_file(pypi)
    assert (source.file, source.records, source.covers) == ("pypi.zip", 2, ("PyPI",))
    assert source.newest == "2031-05-02T03:04:05Z"
    assert source.importer.startswith("dockyard ")
    assert told["OSV Debian"].covers == ("Debian:12", "Debian:13")
    assert told["Debian security tracker"].covers == ("Debian:12",)


def test_a_newer_file_takes_the_place_of_its_kind_alone(folder: Path, pypi: Path, debian: Path, tmp_path: Path) -> None:
    import_files([pypi, debian], folder)
    other = record("PYSEC-2031-9", affected("PyPI", "other", {"introduced": "0"}))
    import_files([write_archive(tmp_path / "new.zip", other)], folder)
    found = report(folder, THING, OPEN, Package("PyPI", "other", "1"))
    assert sorted(one.id for one in found.problems) == [
        "CVE-2031-0100",
        "CVE-2031-0200",
        "CVE-2031-0300",
        "PYSEC-2031-9",
    ]
    assert found.unchecked == ()
    import_files([pypi], folder, keep=False)
    assert report(folder, OPEN).unchecked == (("Debian:12", 1),)


def test_changes_of_packages_change_problems(folder: Path, pypi: Path, debian: Path) -> None:
    other = record("PYSEC-2031-9", affected("PyPI", "some-thing", {"introduced": "2.0"}))
    import_files([write_archive(pypi, GHSA, other), debian], folder)
    before, after = report(folder, THING, OPEN), report(folder, Package("PyPI", "some-thing", "2.0"), OPEN)
    changed = compared(before, after)
    assert [one.id for one in changed.gone] == ["CVE-2031-0001"]
    assert [one.id for one in changed.new] == ["PYSEC-2031-9"]
    assert sorted(one.id for one in changed.stay) == ["CVE-2031-0100", "CVE-2031-0200", "CVE-2031-0300"]


def test_a_release_without_advisories_makes_nothing_go_away(folder: Path, debian: Path) -> None:
    import_files([debian], folder)
    changed = compared(report(folder, OPEN), report(folder, Package("Debian:14", "openthing", "4-1")))
    assert changed.gone == changed.stay == changed.new == ()
    assert changed.unchecked == (("Debian:14", 1),)


def test_without_a_database_nothing_is_said_to_be_clean(folder: Path) -> None:
    with pytest.raises(AdvisoryError, match="says nothing about the image"), opened(folder):
        pass


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"x" * 5000], ids=["empty", "cut", "noise"])
def test_a_damaged_database_is_told(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "advisories.db").write_bytes(content)
    with pytest.raises(AdvisoryError, match=r"damaged|no database"), opened(folder):
        pass


def test_a_database_of_another_version_is_told(folder: Path, pypi: Path) -> None:
    import_files([pypi], folder)
    with sqlite3.connect(folder / "advisories.db") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(AdvisoryError, match="another version"), opened(folder):
        pass


def hostile(tmp_path: Path, kind: str) -> Path:
    """Files that must be refused."""
    path = tmp_path / "hostile.zip"
    good = json.dumps(GHSA)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.json", good)
        if kind == "large record":
            archive.writestr("large.json", b" " * (archives.FILE_LIMIT + 1))
        elif kind == "bomb":
            for number in range(5):
                archive.writestr(f"{number}.json", b" " * (archives.FILE_LIMIT - 2) + b"{}")
        elif kind == "many":
            for number in range(60):
                archive.writestr(f"{number}.json", good)
        elif kind == "no record":
            archive.writestr("../../etc/bad.json", '{"id": 7}')
        elif kind == "deep":
            archive.writestr("deep.json", '{"id": "A", "database_specific": {"a": ' + "[" * 100_000)
    data = bytearray(path.read_bytes())
    if kind == "cut":
        data = data[: len(data) // 2]
    elif kind == "flipped":
        data[60] ^= 0xFF
    elif kind == "encrypted":
        data[6] |= 1
        data[data.rindex(b"PK\1\2") + 8] |= 1
    elif kind == "long list":
        end = data.rindex(b"PK\5\6")
        data[end + 12 : end + 16] = (200 << 20).to_bytes(4, "little")
    path.write_bytes(data)
    return path


HOSTILE = ["large record", "bomb", "many", "no record", "deep", "cut", "flipped", "encrypted", "long list"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_zip_changes_nothing(folder: Path, debian: Path, tmp_path: Path, kind: str) -> None:
    import_files([debian], folder)
    before = (folder / "advisories.db").read_bytes()
    limits = Limits(entries=50, bytes=1 << 30, ratio=100)
    with pytest.raises(AdvisoryError):
        import_files([hostile(tmp_path, kind)], folder, limits=limits)
    assert (folder / "advisories.db").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["advisories.db", "lock"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"id": "A"}', '{"id": "A", "affected": 3}', '{"openthing": 3}', '{"a": {}}', "null"]
)
def test_json_of_another_kind_is_refused(folder: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(content)
    with pytest.raises(AdvisoryError):
        import_files([file], folder)
    assert not (folder / "advisories.db").exists()


def test_an_archive_of_everything_or_of_nothing_known_is_refused(folder: Path, tmp_path: Path) -> None:
    for records in ((GHSA, CVE_ONE), (ELSEWHERE,), ()):
        with pytest.raises(AdvisoryError, match="not the archive of one ecosystem"):
            import_files([write_archive(tmp_path / "all.zip", *records)], folder)


def test_two_files_of_one_kind_are_refused(folder: Path, pypi: Path) -> None:
    with pytest.raises(AdvisoryError, match="two of these files are OSV PyPI"):
        import_files([pypi, pypi], folder)


def test_what_a_killed_import_left_is_swept(folder: Path, pypi: Path) -> None:
    folder.mkdir()
    (folder / "new-1-dead").write_bytes(b"half")
    import_files([pypi], folder)
    assert sorted(path.name for path in folder.iterdir()) == ["advisories.db", "lock"]
