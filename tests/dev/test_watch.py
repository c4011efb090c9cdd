"""How changes are noticed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from dockyard.dev.watch import changes, state_of, wait_for_change


def test_files_that_came_went_or_changed_are_named(tmp_path: Path) -> None:
    kept, gone, grown, replaced = (tmp_path / name for name in ("kept", "gone", "grown", "replaced"))
    for path in (kept, gone, grown, replaced):
        path.write_text("x")
    before = state_of(tmp_path.iterdir())
    gone.unlink()
    grown.write_text("xx")
    same_look = replaced.stat()
    (tmp_path / "draft").write_text("y")
    (tmp_path / "draft").rename(replaced)
    os.utime(replaced, ns=(same_look.st_atime_ns, same_look.st_mtime_ns))
    new = tmp_path / "new"
    new.write_text("")
    assert changes(before, state_of([*tmp_path.iterdir(), tmp_path / "absent"])) == sorted([gone, grown, new, replaced])


async def test_a_file_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("")
    before = state_of([file])
    looks = 0

    def look() -> list[Path]:
        nonlocal looks
        looks += 1
        if looks <= 3:
            file.write_text("x" * looks)
        return [file]

    async with asyncio.timeout(30):
        assert await wait_for_change(look, before) == [file]
    assert looks == 4
    assert file.read_text() == "xxx"
