"""`dockyard scan` and `dockyard advisories`: an image that was really built, by its own bill of materials."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dockyard.build.builder import Built
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.supply.evidence import evidence_of
from dockyard.supply.statement import SBOM
from tests.support.osv import Record, affected, record, tracked, write_archive, write_json
from tests.support.projects import CommandLine, write_adder

SOURCE = "aquasecurity:trivy:SrcName"


@pytest.fixture(scope="module")
def image(home: Home, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with its bill of materials."""
    folder = write_adder(tmp_path_factory.mktemp("scanned"))
    done = CommandLine(home)("build", str(folder), "-t", "scanned:1")
    assert done.returncode == 0, done.stderr
    return "scanned:1"


@pytest.fixture
def line(home: Home, tmp_path: Path) -> CommandLine:
    """The command line in a home that has the images of the others, and advisories of its own."""
    own = tmp_path / "own"
    own.mkdir()
    for part in ("images", "cache"):
        (own / part).symlink_to(home.root / part)
    return CommandLine(Home(own))


def bill(home: Home, image: str) -> list[Record]:
    layout = Layout.open(home.images)
    found = evidence_of(layout, layout.resolve(image).digest, "")
    document = next(one.statement.predicate for one in found if one.statement.predicate_type == SBOM)
    return list(document["components"])


def properties(component: Record) -> dict[str, str]:
    return {one["name"]: one["value"] for one in component.get("properties", ())}


def release(components: list[Record]) -> str:
    return next(f"Debian:{one['version']}" for one in components if one["type"] == "operating-system")


def test_the_problems_of_an_image_are_listed(line: CommandLine, home: Home, image: str, tmp_path: Path) -> None:
    components = bill(home, image)
    numpy = next(one for one in components if one["name"] == "numpy")
    libc = next(one for one in components if one["name"] == "libc6")
    assert properties(libc)[SOURCE] == "glibc"
    pypi = write_archive(
        tmp_path / "pypi.zip",
        record(
            "PYSEC-2031-1",
            affected("PyPI", "NumPy", {"introduced": "0"}, {"fixed": "99.0"}, versions=[numpy["version"]]),
            aliases=["CVE-2031-1111"],
            summary="Numbers \x1b[31m come out wrong",
            database_specific={"severity": "LOW"},
        ),
        record("PYSEC-2031-2", affected("PyPI", "numpy", {"introduced": "99"})),
    )
    always = {"introduced": "0"}
    debian = write_archive(
        tmp_path / "debian.zip",
        record("CVE-2031-2222", affected(release(components), "glibc", always)),
        record("CVE-2031-3333", affected(release(components), "libc6", always)),  # no source has this name
    )
    assert line("advisories", "import", str(pypi), str(debian)).returncode == 0
    done = line("scan", image)
    assert done.returncode == 0, done.stderr
    said = [" ".join(text.split()) for text in done.stdout.splitlines()]
    assert re.fullmatch(r"scanned:1 for linux/\S+: 2 known problems in \d+ packages", said[0])
    assert said[1] == f"low CVE-2031-1111 numpy {numpy['version']} fixed in 99.0"
    assert said[2:4] == ["PYSEC-2031-1", "Numbers \\x1b[31m come out wrong"]
    binaries = sorted({one["name"] for one in components if properties(one).get(SOURCE) == "glibc"})
    assert said[4] == f"unrated CVE-2031-2222 glibc {libc['version']} ({', '.join(binaries)}) no fix"
    assert "by OSV PyPI, imported" in done.stdout
    told = json.loads(line("scan", image, "--json").stdout)
    assert told["images"][0]["unchecked"] == {}
    assert [one["status"] for one in told["images"][0]["problems"]] == ["fixed-available", "no-fix"]
    assert [one["title"] for one in told["advisories"]] == ["OSV Debian", "OSV PyPI"]


def test_the_exit_code_tells_programs(line: CommandLine, home: Home, image: str, tmp_path: Path) -> None:
    ecosystem = release(bill(home, image))
    codename = {"Debian:12": "bookworm", "Debian:13": "trixie"}[ecosystem]
    state = {"releases": {codename: tracked("open", nodsa="Minor issue", urgency="low")}}
    tracker = write_json(tmp_path / "tracker.json", {"glibc": {"CVE-2031-5": state}})
    pypi = write_archive(tmp_path / "pypi.zip", record("X-1", affected("PyPI", "nowhere", {"introduced": "0"})))
    assert line("advisories", "import", str(pypi)).returncode == 0
    assert line("scan", image).returncode == 0
    unchecked = line("scan", image, "--fail-on", "critical")
    assert unchecked.returncode == 1
    assert f"packages of {ecosystem}, whose advisories were not imported" in unchecked.stdout
    assert line("advisories", "import", str(tracker)).returncode == 0
    codes = {one: line("scan", image, "--fail-on", one).returncode for one in ("any", "low", "medium", "fixable")}
    assert codes == {"any": 1, "low": 1, "medium": 0, "fixable": 0}
    assert "no advisory of Debian's will come" in line("scan", image).stdout


def test_without_advisories_a_scan_fails_and_says_how_to_get_them(line: CommandLine, image: str) -> None:
    for words in (("scan", image), ("advisories",)):
        done = line(*words)
        assert done.returncode == 1
        assert "that says nothing about the image" in done.stderr
        assert "dockyard advisories import" in done.stderr
        assert done.stdout == ""


def test_an_image_without_a_bill_of_materials_is_read_itself(
    line: CommandLine, adder: Built, home: Home, tmp_path: Path
) -> None:
    images = line.home.images  # of its own here: other tests attach to the images that they share
    images.unlink()
    bare = Layout.create(images)
    bare.blobs.borrow(Layout.open(home.images).blobs)
    bare.add(adder.image, "adder:1")
    assert evidence_of(bare, adder.image.digest, "") == ()
    pypi = write_archive(tmp_path / "pypi.zip", record("X-2", affected("PyPI", "numpy", {"introduced": "0"})))
    assert line("advisories", "import", str(pypi)).returncode == 0
    told = json.loads(line("scan", "adder:1", "--json").stdout)
    assert [one["id"] for one in told["images"][0]["problems"]] == ["X-2"]


def test_what_was_imported_is_told(line: CommandLine, tmp_path: Path) -> None:
    single = write_json(tmp_path / "one.json", record("X-3", affected("PyPI", "numpy", {"introduced": "0"})))
    done = line("advisories", "import", str(single))
    assert done.returncode == 0, done.stderr
    shown = line("advisories")
    assert "OSV record X-3" in shown.stdout
    assert "2031-05-02" in shown.stdout
    (told,) = json.loads(line("advisories", "--json").stdout)
    assert (told["records"], told["covers"], told["file"]) == (1, [], "one.json")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\3\4 and no more")
    failed = line("advisories", "import", str(broken))
    assert failed.returncode == 1
    assert "what was imported before stays" in failed.stderr
    assert line("advisories").stdout.splitlines()[1].split()[:3] == ["OSV", "record", "X-3"]
