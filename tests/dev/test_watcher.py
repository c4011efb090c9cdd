"""How a lasting build waits for changes: what wakes it, what does not, and what it names."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockyard.build.content import files_to_watch, folders_to_watch
from dockyard.dev.inotify import Inotify
from dockyard.dev.watcher import Watched, Watcher
from dockyard.spec.load import load_project
from tests.support.projects import MANIFEST, write_adder


def none_left() -> Inotify:
    raise OSError(24, "Too many open files")


def watching(folder: Path, told: bool = True) -> Watcher:
    project = load_project(folder).project
    rules = frozenset({folder / "dockyard.toml"})
    watched = Watched(lambda: files_to_watch(folder, project), lambda: folders_to_watch(folder, project), rules)
    return Watcher(watched) if told else Watcher(watched, none_left)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adder(tmp_path / "project", f'{MANIFEST}\n[build]\nexclude = ["notes", "*.log"]\n')


@pytest.fixture(params=["told by the kernel", "not told"])
def watcher(folder: Path, request: pytest.FixtureRequest) -> Iterator[Watcher]:
    watcher = watching(folder, request.param == "told by the kernel")
    yield watcher
    watcher.close()


def changed(watcher: Watcher, folder: Path) -> list[str]:
    """What is told next; a test that waits in vain is ended by its deadline, not by hanging."""
    told: list[list[Path]] = []
    waiting = threading.Thread(target=lambda: told.append(watcher.wait()), daemon=True)
    waiting.start()
    waiting.join(60)
    assert told, "no change was noticed"
    return [path.relative_to(folder).as_posix() for path in told[0]]


def test_several_saves_are_one_change(folder: Path, watcher: Watcher) -> None:
    for name in ("predictor.py", "dockyard.toml", "goldens/one.json", "predictor.py"):
        (folder / name).write_text((folder / name).read_text() + "\n")
    assert changed(watcher, folder) == ["dockyard.toml", "goldens/one.json", "predictor.py"]


def test_what_is_no_part_of_an_image_wakes_nobody(folder: Path, watcher: Watcher) -> None:
    for name in (
        ".predictor.py.swp",
        "predictor.py~",
        "#predictor.py#",
        "4913",
        "train.log",
        "predictor.py___jb_tmp___",
    ):
        (folder / name).write_text("x")
    for name in ("notes", "__pycache__", ".git"):
        (folder / name).mkdir()
        (folder / name / "x.py").write_text("x")
    (folder / "data.txt").write_text("x")
    assert changed(watcher, folder) == ["data.txt"]


def test_editors_that_write_beside_a_file_and_rename_change_that_file(folder: Path, watcher: Watcher) -> None:
    (folder / "predictor.py").rename(folder / "predictor.py~")
    (folder / "predictor.py").write_text("VALUE = 1\n")
    (folder / "predictor.py~").unlink()
    assert changed(watcher, folder) == ["predictor.py"]
    (folder / ".new").write_text("VALUE = 2\n")
    (folder / ".new").rename(folder / "predictor.py")
    assert changed(watcher, folder) == ["predictor.py"]


def test_a_file_is_whole_when_it_was_closed_and_not_before(tmp_path: Path) -> None:
    """Editors that put the old file aside change the permissions of the new one before they have written it."""
    inotify = Inotify()
    inotify.watch(tmp_path)
    with (tmp_path / "file").open("w") as new:
        new.write("VALUE = 1\n")
        os.fchmod(new.fileno(), 0o600)
        events, complete = inotify.read()
        assert complete
        assert not any(event.whole for event in events)
        assert [event.attributes for event in events] == [False, True]
    events, _ = inotify.read()
    assert [event.whole for event in events] == [True]
    inotify.close()


def test_permissions_are_one_change(folder: Path, watcher: Watcher) -> None:
    file = folder / "predictor.py"
    file.write_text("VALUE = 1\n")
    assert changed(watcher, folder) == ["predictor.py"]
    file.chmod(0o755)
    assert changed(watcher, folder) == ["predictor.py"]
    assert watcher.wait(0.0) == []


def test_waiting_can_have_an_end(folder: Path, watcher: Watcher) -> None:
    assert watcher.wait(0.01) == []
    (folder / "predictor.py").write_text("VALUE = 1\n")
    assert changed(watcher, folder) == ["predictor.py"]


def test_a_new_file_is_noticed_beside_a_save_of_a_known_one(folder: Path, watcher: Watcher) -> None:
    (folder / "new.txt").write_text("x")
    (folder / "predictor.py").write_text("VALUE = 1\n")
    assert changed(watcher, folder) == ["new.txt", "predictor.py"]
    (folder / "new.txt").unlink()
    assert changed(watcher, folder) == ["new.txt"]


def test_a_save_of_what_decides_what_is_watched_is_followed_at_once(tmp_path: Path) -> None:
    rules, more = tmp_path / "rules", tmp_path / "more"
    rules.write_text("")
    more.write_text("x")
    watched = Watched(
        lambda: [rules, more] if rules.read_text() else [rules], lambda: [tmp_path], rules=frozenset({rules})
    )
    watcher = Watcher(watched)
    rules.write_text("more")
    assert changed(watcher, tmp_path) == ["more", "rules"]
    watcher.close()


def test_files_that_come_go_move_or_get_other_permissions_are_changes(folder: Path, watcher: Watcher) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "deep.txt").write_text("x")
    assert changed(watcher, folder) == ["a/b/deep.txt"]
    (folder / "a" / "b" / "deep.txt").write_text("y")
    assert changed(watcher, folder) == ["a/b/deep.txt"]
    (folder / "a").rename(folder / "c")
    assert changed(watcher, folder) == ["a/b/deep.txt", "c/b/deep.txt"]
    (folder / "c" / "b" / "deep.txt").chmod(0o755)
    assert changed(watcher, folder) == ["c/b/deep.txt"]
    (folder / "c" / "b" / "deep.txt").unlink()
    assert changed(watcher, folder) == ["c/b/deep.txt"]


def test_an_edit_that_keeps_size_and_time_is_a_change(folder: Path, watcher: Watcher) -> None:
    file = folder / "goldens" / "one.json"
    before = file.stat()
    file.write_text(file.read_text().replace("3.5", "4.5"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed(watcher, folder) == ["goldens/one.json"]


def test_a_save_while_the_last_one_is_built_is_not_lost(folder: Path, watcher: Watcher) -> None:
    (folder / "predictor.py").write_text("VALUE = 1\n")
    assert changed(watcher, folder) == ["predictor.py"]
    (folder / "predictor.py").write_text("VALUE = 2\n")
    assert changed(watcher, folder) == ["predictor.py"]


def test_what_the_build_itself_writes_is_no_change(folder: Path, watcher: Watcher) -> None:
    (folder / "dockyard.lock").write_text("# new\n")
    watcher.written(folder / "dockyard.lock")
    (folder / "predictor.py").write_text("VALUE = 1\n")
    assert changed(watcher, folder) == ["predictor.py"]
    (folder / "dockyard.lock").write_text("# by somebody else\n")
    assert changed(watcher, folder) == ["dockyard.lock"]


def test_it_knows_that_more_has_come(folder: Path) -> None:
    watcher = watching(folder)
    assert not watcher.has_more()
    (folder / "dockyard.lock").write_text("# new")
    watcher.written(folder / "dockyard.lock")
    assert not watcher.has_more()
    (folder / "predictor.py").write_text("VALUE = 1\n")
    assert watcher.has_more()
    assert changed(watcher, folder) == ["predictor.py"]
    watcher.close()
