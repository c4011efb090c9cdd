"""What builds of one process remember, and that it changes nothing of what they make."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dockyard.build.builder import Built, Options, build
from dockyard.build.bytecode import Spare, compile_files, compiling_files
from dockyard.build.content import ContentBuilder, find_files
from dockyard.build.debian_base import DebianBase
from dockyard.build.memory import Memory
from dockyard.build.progress import Silent
from dockyard.build.request import request_of
from dockyard.build.workshop import Workshop
from dockyard.errors import DockyardError, ProjectError
from dockyard.oci.digest import Digest, digest_of, digest_of_file
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.spec.load import load_project
from tests.support.projects import PREDICTOR, write_adder


def test_a_file_is_read_again_when_it_may_have_changed(tmp_path: Path) -> None:
    file, memory = tmp_path / "file", Memory()
    read: list[Path] = []

    def reading(path: Path) -> Digest:
        read.append(path)
        return digest_of_file(path)

    # Faster than the clock of the file system ticks, and of the same size.
    for number in range(100):
        file.write_text(f"{number:03}")
        assert memory.digest(file, reading) == digest_of(b"%03d" % number)
    time.sleep(0.2)
    first = memory.digest(file, reading)
    read.clear()
    assert memory.digest(file, reading) == first
    assert not read
    before = file.stat()
    file.write_text("abc")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert memory.digest(file, reading) == digest_of(b"abc")


def test_a_value_is_kept_for_its_very_key() -> None:
    memory = Memory()
    memory.keep("kind", ("a", 1), "value")
    assert memory.recall("kind", ("a", 1)) == "value"
    assert memory.recall("kind", ("a", 2)) is None
    assert memory.recall("other", ("a", 1)) is None
    memory.keep("kind", ("a", 2), "newer")
    assert memory.recall("kind", ("a", 1)) is None


def test_a_process_started_ahead_compiles_to_the_same_bytes(adder: Built, home: Home, tmp_path: Path) -> None:
    project = load_project(write_adder(tmp_path / "project"))
    workshop = Workshop(project, Layout.open(home.images), home.cache, Silent())
    interpreter = DebianBase(workshop, request_of(project)).interpreter(adder.lock)
    made = []
    spare = Spare()
    for name in ("alone", "ahead"):
        source = tmp_path / name / "predictor.py"
        source.parent.mkdir()
        source.write_text(f"{PREDICTOR}\nflush, _exit, mode, started = 1, 2.5, 'source', ('os', 'spare')\n")
        sources = [(source, "/app/predictor.py")]
        if name == "alone":
            assert compile_files(interpreter, sources) == ()
        else:
            spare.prepare(interpreter)
            with compiling_files(interpreter, sources, spare) as problems:
                assert problems() == ()
        made.append(interpreter.cache_name(source).read_bytes())
    assert made[0] == made[1]
    assert spare.take(interpreter) is None
    spare.renew()
    waiting = spare.take(interpreter)
    assert waiting is not None
    waiting.process.kill()
    waiting.stop()
    spare.close()


def test_many_files_are_compiled_and_all_that_is_wrong_with_them_is_told(
    adder: Built, home: Home, tmp_path: Path
) -> None:
    """More than a pipe holds goes to the process, and more than that comes back, on both of its outputs."""
    project = load_project(write_adder(tmp_path / "project"))
    workshop = Workshop(project, Layout.open(home.images), home.cache, Silent())
    interpreter = DebianBase(workshop, request_of(project)).interpreter(adder.lock)
    folder = tmp_path / "many"
    folder.mkdir()
    sources = [(folder / f"module_{number:04}.py", f"/app/module_{number:04}.py") for number in range(1500)]
    warned, broken = sources[::2], sources[1::2]
    for file, _ in warned:
        file.write_text("VALUE = 1 is 1\n")
    for file, _ in broken:
        file.write_text("\ndef broken(:\n")
    memory = Memory()
    with compiling_files(interpreter, sources, memory.spare) as problems:
        found = problems()
    assert [one.file for one in found] == [file for file, _ in broken]
    assert {one.line for one in found} == {2}
    memory.close()


def test_a_process_that_cannot_compile_is_told(adder: Built, home: Home, tmp_path: Path) -> None:
    project = load_project(write_adder(tmp_path / "project"))
    workshop = Workshop(project, Layout.open(home.images), home.cache, Silent())
    interpreter = DebianBase(workshop, request_of(project)).interpreter(adder.lock)
    memory = Memory()
    with (
        pytest.raises(DockyardError, match="could not compile") as told,
        compiling_files(interpreter, [(tmp_path / "absent.py", "/app/absent.py")], memory.spare) as problems,
    ):
        problems()
    assert "FileNotFoundError" in told.value.detail
    memory.close()


def test_what_nobody_waits_for_is_done_when_there_is_time() -> None:
    done: list[str] = []
    memory = Memory()
    memory.later(lambda: done.append("at once"))
    assert done == ["at once"]
    memory = Memory(lasting=True)
    memory.later(lambda: done.append("when tidied"))
    memory.later(lambda: done.append("when closed"))
    assert done == ["at once"]
    memory.tidy()
    assert set(done) == {"at once", "when tidied", "when closed"}
    memory.later(lambda: done.append("at the end"))
    memory.close()
    assert done[-1] == "at the end"


def test_builds_with_a_memory_notice_that_the_store_has_lost_a_layer(adder: Built, home: Home, tmp_path: Path) -> None:
    folder, layout, memory = write_adder(tmp_path / "project"), Layout.open(home.images), Memory()

    def again() -> Built:
        return build(Workshop(load_project(folder), layout, home.cache, Silent(), memory=memory), Options("kept:1"))

    first = again()
    again()
    small = next(layer for layer in first.layers if layer.title == "Python dependencies")
    layout.blobs.path(small.blob.descriptor.digest).unlink()
    assert again().image == first.image
    assert layout.blobs.has(small.blob.descriptor.digest)


def test_what_changes_while_it_is_read_does_not_get_into_the_store(adder: Built, home: Home, tmp_path: Path) -> None:
    folder = write_adder(tmp_path / "project", predictor=f"{PREDICTOR}\nVALUE = {time.time_ns()}\n")
    workshop = Workshop(load_project(folder), Layout.open(home.images), home.cache, Silent())
    content = ContentBuilder(workshop, adder.lock.base_digest)
    digests = content.code_digests(find_files(workshop.project))
    (folder / "predictor.py").write_text(f"{PREDICTOR}\nVALUE = 0\n")
    interpreter = DebianBase(workshop, request_of(workshop.project)).interpreter(adder.lock)
    with pytest.raises(ProjectError, match="changed while it was being read"), content.code(digests, interpreter):
        pass
    assert workshop.layers.find(content.code_group(digests).key) is None
