"""What is written into a container's control group for a weight, and in which order: with and without idle groups.

Folders stand in for groups here, for a kernel has `cpu.idle` or has it not; `conformance` has the real ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dockyard.engines.weight import Group, Weight, shares

LOW = (Weight.YIELDING, Weight.IDLE)


@pytest.fixture(params=[("cpu.shares", 1024), ("cpu.weight", 100)], ids=["version 1", "version 2"])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Group:
    """A group of one of the two versions, as a kernel of before 5.15 shows it."""
    file, full = request.param
    (tmp_path / file).write_text(str(full))
    return Group(tmp_path, file, full)


@pytest.fixture
def newer(group: Group) -> Group:
    """The same on a kernel that knows idle groups, and idle."""
    (group.folder / "cpu.idle").write_text("1")
    return group


def is_idle(group: Group) -> bool:
    """What the kernel would make of it."""
    return (group.folder / "cpu.idle").read_text() == "1"


def test_a_kernel_that_knows_no_idle_groups_has_a_tenth_for_them(group: Group) -> None:
    for weight in LOW:
        group.put(weight)
        assert 0.09 < group.share() < 0.11
        group.put(Weight.FULL)
        assert group.share() == 1.0
    assert [path.name for path in group.folder.iterdir()] == [group.file]


@pytest.mark.parametrize("weight", Weight)
def test_only_idle_makes_a_group_idle_and_every_other_weight_ends_it(newer: Group, weight: Weight) -> None:
    newer.put(weight)
    assert is_idle(newer) == (weight is Weight.IDLE)
    assert (newer.share() == 1.0) == (weight is Weight.FULL)


@pytest.mark.parametrize("weight", Weight)
def test_a_group_that_does_not_take_its_weight_is_not_left_idle(newer: Group, weight: Weight) -> None:
    (newer.folder / newer.file).unlink()
    (newer.folder / newer.file).mkdir()
    with pytest.raises(OSError, match=newer.file):
        newer.put(weight)
    assert not is_idle(newer)


def test_shares_of_what_is_idle_are_those_of_a_tenth() -> None:
    assert [shares(weight) for weight in Weight] == [1024, 102, 102]
