"""Whether a version has a problem: dpkg's order, PEP 440's, ranges, lists, and what cannot be decided."""

from __future__ import annotations

import shutil
import subprocess
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockyard.supply.advisories.matching import Match, Status, match, match_tracked
from dockyard.supply.advisories.records import Affected, Event, Tracked
from dockyard.supply.advisories.severity import of_vector, of_word
from dockyard.supply.advisories.versions import key_of

DEBIAN = "Debian:12"


def in_order(*versions: str) -> bool:
    keys = [key_of(DEBIAN, one) for one in versions]
    return all(low < high for low, high in pairwise(keys))


def test_debian_versions_sort_as_dpkg_sorts_them() -> None:
    assert in_order("1.0~rc1-1", "1.0-1~deb12u1", "1.0-1", "1.0-1+b1", "1.0-1+deb12u1", "1.0-10", "1.0.1-1", "1:0.1-1")
    assert in_order("1.0", "1.0a", "1.0+a", "1.0.a")
    assert key_of(DEBIAN, "1.0") == key_of(DEBIAN, "1.0-0") == key_of(DEBIAN, "0:1.00")


TEXT = st.text("09a~+.", max_size=6)


@given(st.tuples(TEXT, TEXT, TEXT, TEXT))
@settings(max_examples=150)
def test_dpkg_itself_agrees(parts: tuple[str, str, str, str]) -> None:
    assert shutil.which("dpkg"), "run `make test` on Debian"
    one, other = f"1{parts[0]}-1{parts[1]}", f"1{parts[2]}-1{parts[3]}"
    command = ["dpkg", "--compare-versions", one, "lt", other]
    less = subprocess.run(command, check=False, timeout=20).returncode == 0
    assert (key_of(DEBIAN, one) < key_of(DEBIAN, other)) is less


@pytest.mark.parametrize("version", ["", "1.0 beta", "x:1", "1.0-", "1.0\n", "1" * 300, "1_0"])
def test_what_is_no_debian_version_has_no_place_in_the_order(version: str) -> None:
    assert key_of(DEBIAN, version) is None


def ranged(*events: tuple[str, str], versions: tuple[str, ...] = ()) -> Affected:
    told = tuple(Event(kind, version) for kind, version in events)  # type: ignore[arg-type]
    return Affected("PyPI", "thing", (told,) if told else (), versions)


def verdict(version: str, *events: tuple[str, str], versions: tuple[str, ...] = ()) -> tuple[str, str] | None:
    found = match("PyPI", version, ranged(*events, versions=versions))
    return None if found is None else (found.status.value, found.fixed)


def test_a_range_ends_at_its_fix() -> None:
    events = (("introduced", "1.0"), ("fixed", "2.0"))
    assert verdict("0.9", *events) is None
    assert verdict("1.0", *events) == verdict("2.0rc1", *events) == ("fixed-available", "2.0")
    assert verdict("2.0", *events) is None


def test_a_range_without_an_end_has_no_fix() -> None:
    assert verdict("0.0.1", ("introduced", "0")) == ("no-fix", "")


def test_the_last_affected_version_is_affected() -> None:
    events = (("introduced", "1.0"), ("last_affected", "1.5"))
    assert verdict("1.5", *events) == ("affected", "")
    assert verdict("1.5.1", *events) is None
    assert verdict("1.0", ("last_affected", "1.0"), ("introduced", "1.0")) == ("affected", "")
    assert verdict("9", ("last_affected", "1.0"), ("introduced", "1.0")) is None


def test_several_stretches_of_one_range_count_each() -> None:
    events = (("fixed", "3.2"), ("introduced", "3.0"), ("introduced", "0"), ("fixed", "2.8"))
    found = [verdict(one, *events) for one in ("2.7", "2.9", "3.1", "3.2")]
    assert found == [("fixed-available", "2.8"), None, ("fixed-available", "3.2"), None]


def test_a_build_of_an_affected_version_is_affected() -> None:
    assert verdict("2.1.0+cu118", versions=("2.1.0",)) == ("affected", "")
    assert verdict("2.1.0+cu118", ("introduced", "0"), ("last_affected", "2.1.0")) == ("affected", "")
    assert verdict("2.1.0+cu118", ("introduced", "0"), ("fixed", "2.1.0")) is None
    assert verdict("2.1", ("introduced", "0"), ("fixed", "2.2"), versions=("2.1.0",)) == ("fixed-available", "2.2")


def test_what_cannot_be_compared_is_undecidable_and_never_clean() -> None:
    assert verdict("nightly-build", ("introduced", "0"), ("fixed", "1.0")) == ("undecidable", "")
    assert verdict("nightly-build", versions=("nightly-build",)) == ("affected", "")
    assert verdict("1.0", ("introduced", "0"), ("fixed", "abc-def")) == ("undecidable", "")
    assert verdict("1.0", ("fixed", "0.5")) == ("undecidable", "")
    unreadable = Affected("PyPI", "thing", unreadable=True)
    assert match("PyPI", "1.0", unreadable) == Match(Status.UNDECIDABLE)


def test_a_list_settles_what_a_range_cannot() -> None:
    assert verdict("1.0", ("introduced", "0"), ("fixed", "abc-def"), versions=("1.0",)) == ("affected", "")


def state(status: str, fixed: str = "", nodsa: str = "") -> Tracked:
    return Tracked("CVE-2031-1", DEBIAN, "thing", status, fixed, nodsa=nodsa)


def test_the_trackers_words() -> None:
    assert match_tracked("1.0-1", state("resolved", "1.0-2")) == Match(Status.FIXED, "1.0-2")
    assert match_tracked("1.0-2", state("resolved", "1.0-2")) is None
    assert match_tracked("1.0-1", state("resolved", "0")) is None
    assert match_tracked("1.0 1", state("resolved", "1.0-2")) == Match(Status.UNDECIDABLE)
    assert match_tracked("1.0-1", state("open")) == Match(Status.NO_FIX)
    assert match_tracked("1.0-1", state("open", nodsa="Minor issue")) == Match(Status.NO_DSA)
    assert match_tracked("1.0-1", state("undetermined")) == Match(Status.UNDECIDABLE)


def test_severities_in_words_and_vectors() -> None:
    """Scores from FIRST's own examples: 9.8, 6.1 (changed scope), 5.5, 0.0."""
    assert of_vector("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H") == "critical"
    assert of_vector("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N") == "medium"
    assert of_vector("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:N/I:N/A:H/E:P") == "medium"
    assert of_vector("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N") == ""
    assert of_vector("CVSS:3.1/AV:N") == of_vector("CVSS:4.0/AV:N/AC:L") == of_vector("7.5") == ""
    assert [of_word(one) for one in ("MODERATE", "low**", "not yet assigned", "unimportant")] == [
        "medium",
        "low",
        "",
        "unimportant",
    ]
