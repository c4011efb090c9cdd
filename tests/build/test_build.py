"""Whole builds of a small project: what is in the image, what is reused, what is equal, what is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

from dockyard.build.builder import Built
from dockyard.build.debian_base import DebianBase
from dockyard.errors import DockyardError, ImageError, LockError, PreflightError, ProjectError
from dockyard.oci.archive import write_archive
from dockyard.oci.layout import Layout
from dockyard.oci.registry import Reference, Registry
from dockyard.spec.home import Home
from tests.support.projects import GOLDEN, MANIFEST, PREDICTOR, CommandLine, build_in, write_adder
from tests.support.registry import running_registry
from tests.support.wheels import write_wheel


def files_of(built: Built, home: Home, title: str) -> dict[str, tarfile.TarInfo]:
    layer = next(layer for layer in built.layers if layer.title == title)
    blob = Layout.open(home.images).blobs.path(layer.blob.descriptor.digest)
    with tarfile.open(blob, mode="r:*") as tar:
        return {member.name: member for member in tar}


def test_the_image_says_how_it_runs(adder: Built) -> None:
    config = adder.image.config
    environment = dict(entry.split("=", 1) for entry in config.environment)
    assert config.entrypoint == ("/usr/bin/python3", "-m", "berth")
    assert (config.command, config.user, config.working_dir) == (("serve",), "65532:0", "/app")
    assert environment["BERTH_PREDICTOR"] == "predictor:Adder"
    assert environment["PYTHONPATH"] == "/app:/opt/berth:/opt/dependencies"
    assert environment["OPENBLAS_THREAD_TIMEOUT"] == "18"
    assert config.labels["dev.dockyard.run.memory"] == str(256 << 20)


def test_layers_lie_from_base_to_code(adder: Built) -> None:
    titles = [layer.title for layer in adder.layers]
    large = titles[1:-3]
    assert titles == ["Debian and Python", *large, "Python dependencies", "berth", "code"]
    assert "Python: numpy" in large
    assert large == sorted(large)
    assert adder.layers[0].blob.descriptor.size < 20_000_000


def test_another_requirement_keeps_the_locked_base_and_the_layers_of_large_wheels(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path / "wheels", "dy_small", "1.0", {"dy_small.py": "VALUE = 1\n", "tests/test_it.py": ""})
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    folder = write_adder(tmp_path / "project")
    before = build_in(folder, home, "kept:1")
    write_adder(folder, f'{MANIFEST}\n[build]\nrequirements = ["dy-small"]\n')
    with monkeypatch.context() as context:
        context.setattr(DebianBase, "draft", lambda _: pytest.fail("the base was resolved anew"))
        after = build_in(folder, home, "kept:2")
    assert after.lock.base == before.lock.base
    assert {*before.lock.wheels} < {*after.lock.wheels}
    assert [layer.title for layer in after.layers if not layer.reused] == ["Python dependencies"]
    assert "opt/dependencies/dy_small.py" in files_of(after, home, "Python dependencies")
    assert "opt/dependencies/tests/test_it.py" not in files_of(after, home, "Python dependencies")
    write_adder(folder, f'{MANIFEST}\n[build]\nrequirements = ["dy-small"]\ntrim = false\nleave_out = ["*_small.py"]\n')
    named = files_of(build_in(folder, home, "kept:3"), home, "Python dependencies")
    assert "opt/dependencies/tests/test_it.py" in named
    assert "opt/dependencies/dy_small.py" not in named


def test_another_debian_package_resolves_the_base_too(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_adder(tmp_path / "project")
    build_in(folder, home, "anew:1")
    write_adder(folder, f'{MANIFEST}\n[build]\npackages = ["hello"]\n')
    asked: list[str] = []
    draft = DebianBase.draft
    monkeypatch.setattr(DebianBase, "draft", lambda self: (asked.append("base"), draft(self))[1])
    built = build_in(folder, home, "anew:2")
    assert asked == ["base"]
    assert "hello" in {package.name for package in built.lock.system}


def test_the_code_layer_has_the_project_and_its_bytecode(adder: Built, home: Home) -> None:
    files = files_of(adder, home, "code")
    assert set(files) == {
        "app",
        "app/__pycache__",
        "app/__pycache__/predictor.cpython-311.pyc",
        "app/goldens",
        "app/goldens/one.json",
        "app/predictor.py",
    }
    assert {(member.uid, member.gid, member.mtime) for member in files.values()} == {(0, 0, 0)}


def test_scripts_of_wheels_name_the_image_s_python(adder: Built, home: Home) -> None:
    layer = next(layer for layer in adder.layers if layer.title == "Python: numpy")
    blob = Layout.open(home.images).blobs.path(layer.blob.descriptor.digest)
    with tarfile.open(blob, mode="r:*") as tar:
        members = {member.name: member for member in tar if member.isfile()}
        scripts = [name for name in members if name.startswith("opt/dependencies/bin/")]
        first = {tar.extractfile(members[name]).readline() for name in scripts}  # type: ignore[union-attr]
        records = [name for name in members if name.endswith(".dist-info/RECORD")]
        text = b"".join(tar.extractfile(members[name]).read() for name in records)  # type: ignore[union-attr]
    assert scripts
    assert first == {b"#!/usr/bin/python3\n"}
    assert sys.prefix.encode() not in text
    assert not any(name.endswith(("INSTALLER", "direct_url.json", "REQUESTED")) for name in members)


def test_the_lock_pins_by_hash_and_names_no_host(adder: Built, tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path)
    build_in(folder, home)
    text = (folder / "dockyard.lock").read_text()
    assert "://" not in text
    assert 'name = "numpy"' in text
    assert text.count("sha256") > 20


def test_a_second_build_reuses_everything_and_is_equal(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path)
    first, second = build_in(folder, home), build_in(folder, home)
    assert second.image.digest == first.image.digest
    assert all(layer.reused for layer in second.layers)
    assert not second.lock_changed


def test_an_edit_of_the_code_makes_one_layer_anew(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path)
    first = build_in(folder, home)
    (folder / "predictor.py").write_text(PREDICTOR.replace("0.5", "0.25"))
    second = build_in(folder, home)
    assert [layer.title for layer in second.layers if not layer.reused] == ["code"]
    assert second.image.layers[:-1] == first.image.layers[:-1]
    assert second.layers[-1].blob.descriptor.size < 10_000


@pytest.mark.slow
def test_another_machine_s_build_has_the_same_digest(tmp_path: Path, home: Home) -> None:
    """Cold caches, another folder, umask, time zone, locale, hash seed and file times: the same image."""
    folder = write_adder(tmp_path / "one")
    first = build_in(folder, home)
    other = tmp_path / "quite" / "another place"
    shutil.copytree(folder, other)
    for path in other.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    far = Home(tmp_path / "far")
    changed = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "7", "UV_CACHE_DIR": str(tmp_path / "uv")}
    command = CommandLine(far, changed).command("build", str(other), "--locked", "--json", "--name", "adder:test")
    script = "umask 077; exec " + " ".join(f"'{word}'" for word in command)
    done = subprocess.run(
        ["sh", "-c", script], env=CommandLine(far, changed).variables(), capture_output=True, text=True, timeout=180,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert not any(layer["reused"] for layer in result["layers"])
    ours = [layer.blob.descriptor.digest for layer in first.layers]
    assert [layer["digest"] for layer in result["layers"]] == ours
    assert result["digest"] == first.image.digest


def test_no_privilege_is_needed(tmp_path: Path, home: Home) -> None:
    """As root without a single capability: what such a process can do, any user can do in its own folders."""
    folder = write_adder(tmp_path / "project")
    shutil.copytree(home.cache / "packages", tmp_path / "home/cache/packages")
    line = CommandLine(Home(tmp_path / "home"))
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"] if os.getuid() == 0 else []
    done = subprocess.run(
        [*bare, *line.command("build", str(folder), "--json")],
        env=line.variables(), capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user; the other tests build as this one")
def test_another_user_builds_the_same_image(adder: Built, home: Home) -> None:
    """As uid 65534, which may write to its own folder alone; it reads what of this checkout only its owner may."""
    assert adder.image
    own = Path(tempfile.mkdtemp(prefix="dy-"))
    try:
        folder = write_adder(own / "project")
        expected = build_in(folder, home).image.digest
        shutil.copytree(home.cache / "packages", own / "home/cache/packages")
        for path in (own, *own.rglob("*")):
            os.chown(path, 65534, 65534)
        line = CommandLine(Home(own / "home"), {"HOME": str(own), "UV_CACHE_DIR": str(own / "uv"), "TMPDIR": str(own)})
        only = "-all,+dac_read_search"
        other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
        rights = [f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}"]
        done = subprocess.run(
            [*other, *rights, *line.command("build", str(folder), "--json", "--locked")],
            env=line.variables(), cwd=own, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["digest"] == expected
        assert {path.stat().st_uid for path in (own / "home/images").rglob("*")} == {65534}
    finally:
        shutil.rmtree(own)


def test_nothing_of_the_user_s_code_runs_in_a_build(tmp_path: Path, home: Home) -> None:
    marker = tmp_path / "it-ran"
    code = f"open({str(marker)!r}, 'w').close()\n{PREDICTOR}"
    folder = write_adder(tmp_path / "p", predictor=code)
    for name in ("setup.py", "conftest.py", "sitecustomize.py", "usercustomize.py", "encodings.py", "json.py"):
        (folder / name).write_text(code)
    (folder / "hook.pth").write_text(f"import os; open({str(marker)!r}, 'w').close()\n")
    shutil.copytree(folder, tmp_path / "init", ignore=shutil.ignore_patterns("dockyard.*"))
    script, variables = str(Path(sys.executable).with_name("dockyard")), CommandLine(home).variables()
    name = ("--name", "adder:test")
    for words in (("build", *name), ("build", *name, "--upgrade"), ("images",), ("init", str(tmp_path / "init"))):
        done = subprocess.run([script, *words], cwd=folder, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert not marker.exists()


def test_weights_get_a_layer_of_their_own_uncompressed(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, MANIFEST.replace("[run]", 'weights = ["data/*.bin"]\n[run]'))
    (folder / "data").mkdir()
    (folder / "data" / "big.bin").write_bytes(b"weights" * 1000)
    built = build_in(folder, home)
    layer = built.layers[-3]
    assert layer.title == "weights: data/big.bin"
    assert layer.blob.descriptor.media_type == "application/vnd.oci.image.layer.v1.tar"
    assert "app/data/big.bin" in files_of(built, home, layer.title)
    assert "app/data/big.bin" not in files_of(built, home, "code")


def test_several_models_are_in_the_image_s_settings(tmp_path: Path, home: Home) -> None:
    further = """
[serve]
threads = 2
max_batch_size = 8

[[models]]
name = "sizes"
version = "7"
format = "onnx"
weights = "models/*.onnx"
batch_sizes = [1, 8]

[[models]]
name = "spare"
predictor = "predictor:Adder"
at_start = false
"""
    folder = write_adder(tmp_path / "several", MANIFEST + further)
    (folder / "models").mkdir()
    (folder / "models" / "sizes.onnx").write_bytes(b"weights")
    built = build_in(folder, home)
    environment = dict(entry.split("=", 1) for entry in built.image.config.environment)
    settings = {name: value for name, value in environment.items() if name.startswith("BERTH_")}
    assert json.loads(settings.pop("BERTH_MODELS")) == [
        {"name": "adder", "version": "1", "predictor": "predictor:Adder", "threads": 2},
        {
            "name": "sizes",
            "version": "7",
            "format": "onnx",
            "weights": "/app/models/sizes.onnx",
            "options": {},
            "at_start": True,
            "batch_sizes": [1, 8],
            "threads": 2,
        },
        {"name": "spare", "version": "1", "predictor": "predictor:Adder", "at_start": False, "threads": 2},
    ]
    assert settings == {"BERTH_GOLDENS": "/app/goldens", "BERTH_MAX_BATCH_SIZE": "8"}
    assert [layer.title for layer in built.layers][-3:] == ["weights: models/sizes.onnx", "berth", "code"]


def test_missing_weights_are_named(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, MANIFEST.replace("[run]", 'weights = "model.onnx"\n[run]'))
    (folder / "train.py").write_text("")
    with pytest.raises(ProjectError, match=r"'model\.onnx' do not exist") as caught:
        build_in(folder, home)
    assert "training script" in caught.value.remedy


def test_weights_outside_the_project_are_refused(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, MANIFEST.replace("[run]", 'weights = "../secret.bin"\n[run]'))
    with pytest.raises(ProjectError, match="outside the project"):
        build_in(folder, home)


def test_a_link_out_of_the_project_is_refused(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path)
    (folder / "passwd.txt").symlink_to("/etc/passwd")
    with pytest.raises(ProjectError, match=r"passwd\.txt is a link"):
        build_in(folder, home)


def test_hidden_files_environments_images_and_excluded_files_stay_out(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, MANIFEST + '\n[build]\nexclude = ["train.py", "notes/*"]\n')
    unwanted = (".env", "train.py", "notes/a.txt", "env/pyvenv.cfg", "env/lib.py", "out.tar", "oci/oci-layout")
    for name in (*unwanted, "kept.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x = 1\n")
    files = files_of(build_in(folder, home), home, "code")
    inside = {name for name, member in files.items() if member.isfile() and "__pycache__" not in name}
    assert inside == {"app/predictor.py", "app/goldens/one.json", "app/kept.txt"}


def test_a_syntax_error_is_found_at_build(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, predictor="x = 1\ndef broken(:\n")
    with pytest.raises(ProjectError, match=r"predictor\.py, line 2"):
        build_in(folder, home)


def test_a_predictor_module_that_is_not_there_is_named(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, MANIFEST.replace("predictor:Adder", "model.main:Adder"))
    with pytest.raises(ProjectError, match=r"no model/main\.py"):
        build_in(folder, home)


def test_a_class_that_its_module_does_not_have_is_named_with_those_it_has(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, MANIFEST.replace("predictor:Adder", "predictor:Ader"))
    with pytest.raises(ProjectError, match="no class 'Ader'") as caught:
        build_in(folder, home)
    assert "it has Adder" in caught.value.remedy


@pytest.mark.parametrize("line", ["from other import Adder", "from other import *", "Adder = make()"])
def test_a_class_that_comes_from_elsewhere_is_not_refused(tmp_path: Path, home: Home, line: str) -> None:
    folder = write_adder(tmp_path, predictor=f"{line}\n")
    (folder / "other.py").write_text(PREDICTOR)
    assert build_in(folder, home).image


@pytest.mark.parametrize(
    ("requirements", "said"),
    [
        ('["docopt==0.6.2"]', "docopt has no wheel for linux/"),
        ('["no-such-distribution-anywhere-zz"]', "the package index has no no-such-distribution-anywhere-zz"),
        ('["numpy==99.0"]', "cannot be resolved for linux/"),
        ('"requirements.txt"', "requirements.txt', which does not exist"),
        ('"Pipfile"', "of a kind that is not read"),
    ],
)
def test_requirements_that_cannot_be_met_are_told(tmp_path: Path, home: Home, requirements: str, said: str) -> None:
    folder = write_adder(tmp_path, f"{MANIFEST}\n[build]\nrequirements = {requirements}\n")
    with pytest.raises(DockyardError) as caught:
        build_in(folder, home)
    assert said in caught.value.what
    assert caught.value.remedy
    assert not (folder / "dockyard.lock").exists()


def test_requirements_are_read_from_a_file(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, f'{MANIFEST}\n[build]\nrequirements = "requirements.txt"\n')
    (folder / "requirements.txt").write_text("# what we need\nidna==3.10\n")
    built = build_in(folder, home)
    assert "idna" in {wheel.name for wheel in built.lock.wheels}


def test_locked_refuses_to_change_the_lock(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path)
    with pytest.raises(LockError, match=r"dockyard\.lock has nothing for linux/"):
        build_in(folder, home, locked=True)
    build_in(folder, home)
    (folder / "dockyard.toml").write_text(f'{MANIFEST}\n[build]\nrequirements = ["idna==3.10"]\n')
    with pytest.raises(LockError, match="out of date"):
        build_in(folder, home, locked=True)


def test_a_damaged_lock_is_told(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path)
    (folder / "dockyard.lock").write_text("format = 1\n[platforms.x]\nwhat = 3\n")
    with pytest.raises(LockError, match="is damaged") as caught:
        build_in(folder, home)
    assert "version control" in caught.value.remedy


def test_debian_packages_get_a_layer_above_the_base(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, f'{MANIFEST}\n[build]\npackages = ["libgomp1"]\n')
    built = build_in(folder, home)
    files = files_of(built, home, "Debian packages")
    assert any(name.endswith("libgomp.so.1") for name in files)
    assert "var/lib/dpkg/status.d/libgomp1" in files


def native_wheel(folder: Path, name: str, library: str) -> None:
    """A wheel whose extension module needs `library`, which is in no wheel."""
    folder.mkdir()
    (folder / "empty.c").write_text("void* PyInit_core(void) { return 0; }\n")
    stub = ["cc", "-shared", "-fPIC", "-x", "c", "/dev/null", f"-Wl,-soname,{library}", "-o", "libstub.so"]
    subprocess.run(stub, cwd=folder, check=True, capture_output=True)
    module = ["cc", "-shared", "-fPIC", "empty.c", "-Wl,--no-as-needed", "-L.", "-lstub", "-o", "core.abi3.so"]
    subprocess.run(module, cwd=folder, check=True, capture_output=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.write(folder / "core.abi3.so", f"{name}/core.abi3.so")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: false\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{name}/__init__.py,,\n{name}/core.abi3.so,,\n{info}/METADATA,,\n")


def test_a_library_that_a_wheel_lacks_is_added_from_debian(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    native_wheel(tmp_path / "wheels", "dy_needs_gomp", "libgomp.so.1")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    folder = write_adder(tmp_path / "p", f'{MANIFEST}\n[build]\nrequirements = ["dy-needs-gomp"]\n')
    built = build_in(folder, home)
    assert built.lock.found_packages == ("libgomp1",)
    assert any(name.endswith("libgomp.so.1") for name in files_of(built, home, "Debian packages"))
    again = build_in(folder, home, locked=True)
    assert again.image.digest == built.image.digest


def test_without_fixing_a_library_that_a_wheel_lacks_is_named_and_nothing_is_added(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    native_wheel(tmp_path / "wheels", "dy_needs_gomp", "libgomp.so.1")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    folder = write_adder(tmp_path / "p", f'{MANIFEST}\n[build]\nrequirements = ["dy-needs-gomp"]\n')
    done = CommandLine(home)("build", str(folder), "--no-fix")
    assert done.returncode == 1
    assert "libgomp.so.1, needed by /opt/dependencies/dy_needs_gomp/core.abi3.so" in done.stderr
    assert '[build] packages = ["libgomp1"]' in done.stderr
    assert not (folder / "dockyard.lock").exists()
    assert "libgomp1" in CommandLine(home)("build", str(folder), "--name", "with-gomp:1").stderr


def test_a_library_that_nobody_knows_fails_the_build(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    native_wheel(tmp_path / "wheels", "dy_needs_odd", "libodd-thing.so.9")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    folder = write_adder(tmp_path / "p", f'{MANIFEST}\n[build]\nrequirements = ["dy-needs-odd"]\n')
    with pytest.raises(PreflightError) as caught:
        build_in(folder, home)
    assert "libodd-thing.so.9, needed by /opt/dependencies/dy_needs_odd/core.abi3.so" in caught.value.detail


def left_over(home: Home) -> list[Path]:
    """What a build keeps only while it works: scratch folders and partial files."""
    return [
        path
        for path in home.root.rglob("*")
        if path.name.startswith("work-") or (path.parent.name == "partial" and path.is_file())
    ]


# How a build is ended, and the exit codes that it may have then. Python itself sometimes turns 130 into its own end by
# SIGINT (when Ctrl-C falls into an `exec`), which shells call 130 as well.
ENDS = {signal.SIGINT: (130, -signal.SIGINT), signal.SIGTERM: (143,), signal.SIGKILL: (-signal.SIGKILL,)}


@pytest.mark.parametrize("ending", ENDS, ids=lambda ending: ending.name)
def test_a_build_that_is_ended_at_any_moment_leaves_the_store_usable(
    tmp_path: Path, home: Home, adder: Built, ending: signal.Signals
) -> None:
    """A cold build is ended again and again, each time later, until it is fast enough to finish."""
    folder = write_adder(tmp_path / "p")
    expected = build_in(folder, home).image.digest
    own = Home(tmp_path / "h")
    shutil.copytree(home.cache / "packages", own.cache / "packages")
    line = CommandLine(own)
    command = line.command("build", str(folder), "--name", "adder:test")
    ended, delay = 0, random.Random(7).uniform(0.2, 0.4)
    while delay < 60:
        process = subprocess.Popen(
            command, env=line.variables(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        time.sleep(delay)
        os.killpg(process.pid, ending)
        _, stderr = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        ended += 1
        assert process.returncode in ENDS[ending], stderr.decode()
        assert b"Traceback" not in stderr, stderr.decode()
        assert all(named.image.digest == expected for named in Layout.create(own.images).images())
        assert ending is signal.SIGKILL or [path for path in left_over(own) if path.is_dir()] == []
        delay *= 1.6
    assert ended >= 2
    assert line("build", str(folder), "--name", "adder:test").returncode == 0
    assert left_over(own) == []
    assert {named.image.digest for named in Layout.open(own.images).images()} == {expected}


def test_two_builds_at_once_lose_nothing(tmp_path: Path, home: Home) -> None:
    line = CommandLine(home)
    processes = []
    for number in range(2):
        text = MANIFEST.replace('"adder"', f'"adder-{number}"')
        folder = write_adder(tmp_path / str(number), text, PREDICTOR.replace("0.5", f"0.{number}"))
        command = line.command("build", str(folder))
        processes.append(
            subprocess.Popen(command, env=line.variables(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        )
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()
    names = {one.name for one in Layout.open(home.images).images()}
    assert {"adder-0:1", "adder-1:1", "adder-0:latest", "adder-1:latest"} <= names


def test_a_base_from_a_layout_is_used_as_it_is(adder: Built, tmp_path: Path, home: Home) -> None:
    """The adder's own image as the base: its layers are the lowest of the new one, its Python compiles and runs."""
    folder = write_adder(tmp_path, f'{MANIFEST}\n[build]\nbase = "oci:{home.images}:{adder.image.digest}"\n')
    built = build_in(folder, home, "on-adder:1")
    assert built.image.layers[: len(adder.image.layers)] == adder.image.layers
    assert built.lock.base_image == adder.image.digest
    assert (built.lock.python, built.lock.base) == ("3.11", ())
    assert GOLDEN  # the project's own files lie on top
    assert "app/predictor.py" in files_of(built, home, "code")


def test_settings_of_a_model_in_the_base_do_not_leak(
    adder: Built, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path / "wheels", "onnxruntime", "99.0", {"onnxruntime/__init__.py": ""})
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    more = f'base = "oci:{home.images}:{adder.image.digest}"\nrequirements = ["onnxruntime==99.0"]\n'
    folder = write_adder(tmp_path / "p", f"{MANIFEST}\n[build]\n{more}")
    (folder / "net.onnx").write_bytes(b"x")
    text = (folder / "dockyard.toml").read_text()
    text = text.replace('predictor = "predictor:Adder"', 'format = "onnx"\nweights = "net.onnx"')
    (folder / "dockyard.toml").write_text(text)
    settings = {entry.partition("=")[0] for entry in build_in(folder, home, "on-adder:2").image.config.environment}
    assert "BERTH_FORMAT" in settings
    assert "BERTH_PREDICTOR" not in settings
    assert adder.image


def test_a_format_with_several_files_is_refused(tmp_path: Path, home: Home) -> None:
    manifest = MANIFEST.replace('predictor = "predictor:Adder"', 'format = "onnx"\nweights = "*.onnx"')
    folder = write_adder(tmp_path, manifest)
    for name in ("a.onnx", "b.onnx"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(ProjectError, match=r"matches 2: a\.onnx, b\.onnx"):
        build_in(folder, home)


def test_a_base_from_an_archive_or_a_registry_is_pinned_by_its_digest(adder: Built, tmp_path: Path, home: Home) -> None:
    layout = Layout.open(home.images)
    write_archive(adder.image, layout, "adder:1", tmp_path / "base.tar")
    with running_registry(tmp_path / "registry") as registry:
        reference = Reference.parse(f"{registry.host}/base:1")
        Registry().push(adder.image, layout, reference)
        for number, base in enumerate((f"archive:{tmp_path / 'base.tar'}", str(reference))):
            folder = write_adder(tmp_path / str(number), f'{MANIFEST}\n[build]\nbase = "{base}"\n')
            own = Home(tmp_path / f"home-{number}")
            built = build_in(folder, own, "on-base:1")
            assert built.lock.base_image == adder.image.digest
            assert built.image.layers[: len(adder.image.layers)] == adder.image.layers


def test_a_base_that_changed_under_its_name_is_refused_until_an_upgrade(
    adder: Built, tmp_path: Path, home: Home
) -> None:
    layout = Layout.open(home.images)
    changed = write_adder(tmp_path / "changed", predictor=PREDICTOR.replace("0.5", "0.4375"))
    newer = build_in(changed, home, "newer:1").image
    with running_registry(tmp_path / "registry") as registry:
        reference = Reference.parse(f"{registry.host}/base:1")
        Registry().push(adder.image, layout, reference)
        folder = write_adder(tmp_path / "p", f'{MANIFEST}\n[build]\nbase = "{reference}"\n')
        build_in(folder, Home(tmp_path / "one"), "on-base:1")
        Registry().push(newer, layout, reference)
        with pytest.raises(ImageError, match="pins sha256") as caught:
            build_in(folder, Home(tmp_path / "two"), "on-base:1")
        assert "--upgrade" in caught.value.remedy
        upgraded = build_in(folder, Home(tmp_path / "two"), "on-base:1", upgrade=True)
        assert upgraded.lock.base_image == newer.digest
