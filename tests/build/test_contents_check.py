"""What a build refuses of a project's own contents: imports and pickles that would fail, secrets, closed caches."""

from __future__ import annotations

import base64
import os
import pickle
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dockyard.build.builder import Built
from dockyard.build.estimators import Estimator
from dockyard.build.pickle_facts import PickleFacts
from dockyard.build.pickles import read_pickle
from dockyard.build.secret_files import find_secrets
from dockyard.errors import DockyardError, PreflightError
from dockyard.oci.image import assemble
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from dockyard.spec.load import load_project
from tests.support.projects import MANIFEST, PREDICTOR, CommandLine, build_in, write_adder
from tests.support.wheels import write_wheel

# Made up here, so that no file of this repository has a pattern of a secret in it.
AWS_KEY = "AKIA" + "QYLPMN5HFIQR7TRL"
PEM = "-----BEGIN " + "RSA PRIVATE KEY-----\n" + base64.b64encode(bytes(range(200))).decode() + "\n"


# --- imports ---------------------------------------------------------------------------------------------------------


def test_an_import_that_nothing_brings_fails_with_its_file_line_and_distribution(
    tmp_path: Path, dockyard: CommandLine
) -> None:
    folder = write_adder(tmp_path, predictor=f"import os\nimport sklearn.tree\n{PREDICTOR}")
    done = dockyard("build", str(folder))
    assert done.returncode == 1
    assert "predictor.py, line 2: imports sklearn, which nothing in the image has" in done.stderr
    assert "`scikit-learn`" in done.stderr


def test_imports_are_followed_through_the_project_s_modules(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, predictor=f"from parts.inner import helper\n{PREDICTOR}")
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "inner.py").write_text("from . import deep\nfrom .deep import x as helper\n")
    (folder / "parts" / "deep.py").write_text("x = 1\n\nimport torch\n")
    with pytest.raises(PreflightError, match=r"parts/deep\.py, line 3: imports torch"):
        build_in(folder, home)


@pytest.mark.parametrize(
    ("lines", "noted"),
    [
        ("try:\n    import torch\nexcept ImportError:\n    torch = None\n", True),
        ("try:\n    import torch\nexcept (ValueError, ModuleNotFoundError):\n    torch = None\n", True),
        ("def later():\n    import torch\n", True),
        ("import sys\nif sys.platform == 'win32':\n    import torch\n", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n", False),
        ("import typing\nif typing.TYPE_CHECKING:\n    import torch\n", False),
    ],
)
def test_an_import_that_may_fail_is_no_error(tmp_path: Path, home: Home, lines: str, noted: bool) -> None:
    built = build_in(write_adder(tmp_path, predictor=lines + PREDICTOR), home)
    assert [note.kind for note in built.notes] == (["missing-module"] if noted else [])


@pytest.mark.parametrize("clause", ["except OSError:", "finally:"])
def test_a_try_that_does_not_catch_a_failed_import_saves_nothing(tmp_path: Path, home: Home, clause: str) -> None:
    folder = write_adder(tmp_path, predictor=f"try:\n    import torch\n{clause}\n    pass\n{PREDICTOR}")
    with pytest.raises(PreflightError, match="imports torch"):
        build_in(folder, home)


def test_modules_of_wheels_berth_the_library_and_the_project_are_there(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"dy_one.py": "", "dy_many/__init__.py": "", "dy_space/part/deep.py": ""}
    write_wheel(tmp_path / "wheels", "dy_modules", "1.0", files)
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    lines = "import dy_one, dy_many, dy_space.part.deep, numpy.linalg, msgspec, berth, sqlite3, own, folder.thing\n"
    manifest = f'{MANIFEST}\n[build]\nrequirements = ["dy-modules"]\n'
    folder = write_adder(tmp_path / "p", manifest, lines + PREDICTOR)
    (folder / "own.py").write_text("")
    (folder / "folder").mkdir()
    (folder / "folder" / "thing.py").write_text("")
    assert build_in(folder, home).notes == ()
    (folder / "predictor.py").write_text("import dy_other\n" + PREDICTOR)
    with pytest.raises(PreflightError, match="dy_other"):
        build_in(folder, home)  # the layer is reused now, and what it brings is still known


def test_the_image_s_own_standard_library_counts(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that this machine's newer Python no longer has."""
    names = sys.stdlib_module_names - {"colorsys", "cgi"}
    monkeypatch.setattr(sys, "stdlib_module_names", names)
    assert build_in(write_adder(tmp_path, predictor=f"import cgi, colorsys\n{PREDICTOR}"), home).notes == ()


def test_modules_of_debian_packages_are_there(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, f'{MANIFEST}\n[build]\npackages = ["python3-idna"]\n', f"import idna\n{PREDICTOR}")
    assert build_in(folder, home).notes == ()
    assert build_in(folder, home).notes == ()


def test_a_format_whose_backend_has_no_wheels_is_told(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, '[model]\nname = "m"\nformat = "onnx"\nweights = "m.onnx"\n')
    (folder / "m.onnx").write_bytes(b"")
    with pytest.raises(PreflightError, match='format = "onnx" needs the module onnxruntime') as caught:
        build_in(folder, home)
    assert "`onnxruntime`" in caught.value.remedy


# --- pickles ---------------------------------------------------------------------------------------------------------


def forest() -> Any:
    rows = np.random.default_rng(3).random((60, 3))
    return make_pipeline(StandardScaler(), RandomForestClassifier(3)).fit(rows, ["a", "b"] * 30)


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)], ids=str)
def test_joblib_files_are_read_whole(tmp_path: Path, compress: Any) -> None:
    joblib.dump(forest(), tmp_path / "m", compress=compress)
    facts = read_pickle(tmp_path / "m")
    pipeline = Estimator("sklearn.pipeline.Pipeline", features=3, classes=2, label="BYTES")
    assert facts == PickleFacts(("joblib", "numpy", "sklearn"), (sklearn.__version__,), True, pipeline)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read_whole(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "m").write_bytes(pickle.dumps(forest(), protocol))
    facts = read_pickle(tmp_path / "m")
    assert facts.whole
    assert facts.sklearn == (sklearn.__version__,)
    assert facts.estimator is not None
    assert (facts.estimator.features, facts.estimator.classes) == (3, 2)
    assert set(facts.packages) - {"_codecs", "builtins", "copyreg"} == {"numpy", "sklearn"}


def test_arrays_of_objects_and_large_ones_are_passed_over(tmp_path: Path) -> None:
    words = OneHotEncoder().fit(np.array([["x"], ["y"]], dtype=object))
    joblib.dump([words, np.zeros(1_000_000), np.array(["text"]), words], tmp_path / "m")
    assert read_pickle(tmp_path / "m") == PickleFacts(("joblib", "numpy", "sklearn"), (sklearn.__version__,), True)


def test_a_pytorch_archive_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(Path("x")))
        archive.writestr("m/data/0", b"weights")
    assert read_pickle(tmp_path / "m.pt").packages == ("pathlib",)


def test_what_a_pickle_would_run_is_named_and_never_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / "m").write_bytes(pickle.dumps(Evil()))
    assert read_pickle(tmp_path / "m").packages == ("posix",)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 cut", b"\x80\x05\x95", b"\x78\x9cxx", b"\x1f\x8b"])
def test_a_damaged_file_is_read_as_far_as_it_goes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    assert read_pickle(tmp_path / "m") == PickleFacts((), (), False)


SKLEARN = """\
[model]
name = "forest"
{model}
weights = "m.joblib"

[build]
requirements = ["scikit-learn=={version}", "joblib"]
"""


@pytest.fixture
def other_sklearn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Wheels that are called scikit-learn, in versions of the test's choice, without its weight."""

    def make(version: str) -> str:
        write_wheel(tmp_path / "wheels", "scikit_learn", version, {"sklearn/__init__.py": ""})
        write_wheel(tmp_path / "wheels", "threadpoolctl", "99.0", {"threadpoolctl.py": ""})
        monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
        return version

    return make


def test_a_pickle_of_another_scikit_learn_than_the_locked_one_fails(
    tmp_path: Path, home: Home, other_sklearn: Any
) -> None:
    version = other_sklearn("1.2.99")
    predictor = 'predictor = "predictor:Adder"'
    folder = write_adder(tmp_path / "p", SKLEARN.format(model=predictor, version=version))
    joblib.dump(forest(), folder / "m.joblib")
    with pytest.raises(PreflightError) as caught:
        build_in(folder, home)
    assert f"m.joblib was written by scikit-learn {sklearn.__version__}, and 1.2.99 is locked" in caught.value.what
    assert f'"scikit-learn=={sklearn.__version__}"' in caught.value.remedy


def test_another_patch_release_is_a_warning_where_the_predictor_loads_the_file(
    tmp_path: Path, home: Home, other_sklearn: Any
) -> None:
    version = other_sklearn(".".join([*sklearn.__version__.split(".")[:2], "99"]))
    predictor = 'predictor = "predictor:Adder"'
    folder = write_adder(tmp_path / "p", SKLEARN.format(model=predictor, version=version))
    joblib.dump(forest(), folder / "m.joblib")
    assert [(note.level, note.kind) for note in build_in(folder, home).notes] == [("warning", "pickle-version")]


def test_a_pickle_of_a_package_that_is_not_locked_fails(tmp_path: Path, home: Home) -> None:
    manifest = MANIFEST.replace("[run]", 'weights = "m.pkl"\n[run]')
    folder = write_adder(tmp_path, manifest)
    (folder / "m.pkl").write_bytes(pickle.dumps(forest()))
    with pytest.raises(PreflightError, match=r"m\.pkl has objects of sklearn") as caught:
        build_in(folder, home)
    assert "`scikit-learn`" in caught.value.remedy


def test_a_pickle_of_the_script_that_wrote_it_is_told(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, MANIFEST.replace("[run]", 'weights = "m.pkl"\n[run]'))
    (folder / "m.pkl").write_bytes(b"\x80\x02c__main__\nModel\n.")
    assert ["__main__" in note.what for note in build_in(folder, home).notes] == [True]


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("deploy.pem", PEM, "deploy.pem, line 1: looks like a private key"),
        ("notes.txt", f"a\nkey = {AWS_KEY}\n", "notes.txt, line 2: looks like an AWS access key"),
        ("settings.py", "TOKEN = 'ghp_" + "a1B2" * 9 + "'\n", "settings.py, line 1: looks like a GitHub token"),
        ("keys/id_rsa", "anything", "keys/id_rsa is a file for secrets, by its name"),
        ("credentials.json", "{}", "credentials.json is a file for secrets, by its name"),
        ("hub.ini", "t=hf_" + "aBcDeFgHiJ" * 3 + "abcd\n", "hub.ini, line 1: looks like a Hugging Face token"),
    ],
)
def test_a_planted_secret_fails_the_build(
    tmp_path: Path, dockyard: CommandLine, name: str, content: str, said: str
) -> None:
    folder = write_adder(tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    done = dockyard("build", str(folder))
    assert done.returncode == 1
    assert said in done.stderr
    assert f'allow_secrets = ["{name}"]' in done.stderr
    assert not (folder / "dockyard.lock").exists()


@pytest.mark.parametrize("how", ["exclude", "allow_secrets"])
def test_a_file_that_looks_like_a_secret_can_be_kept_out_or_allowed(tmp_path: Path, home: Home, how: str) -> None:
    folder = write_adder(tmp_path, f'{MANIFEST}\n[build]\n{how} = ["*.pem"]\n')
    (folder / "deploy.pem").write_text(PEM)
    assert build_in(folder, home).image
    assert ("deploy.pem" in build_in(folder, home).code) is (how == "allow_secrets")


@pytest.mark.parametrize("text", ["sk-", "sk-" + "a" * 100, "-----BEGIN PRIVATE KEY-----\na: b\n", "github_pat_"])
def test_a_file_made_to_be_slow_to_search_is_searched_at_once(tmp_path: Path, text: str) -> None:
    """A pattern without bounds took half a minute for the first of these."""
    folder = write_adder(tmp_path)
    (folder / "slow.txt").write_text((text * 250_000)[: 255 << 10] + "T3BlbkFJ")
    begun = time.process_time()
    assert list(find_secrets(load_project(folder), ["slow.txt"])) == []
    assert time.process_time() - begun < 5


def test_a_secret_in_a_variable_fails_the_build(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path, f'{MANIFEST}\n[environment]\nCLOUD = "{AWS_KEY}"\n')
    with pytest.raises(DockyardError, match=r"environment\.CLOUD looks like an AWS access key"):
        build_in(folder, home)


HARMLESS = (
    "AKIAIOSFODNN7EXAMPLE",
    "AKIA is how they begin, AKIA1234 too",
    "-----BEGIN " + "PRIVATE KEY-----",
    "-----BEGIN CERTIFICATE-----\n" + "A" * 64,
    "-----BEGIN PUBLIC KEY-----\n" + "A" * 64,
    "hf_transfer hf_hub_download_of_some_long_function_name",
    "password = os.environ['PASSWORD']",
    f"sha256:{'a1' * 32}",
)


def test_what_is_no_secret_is_let_through(tmp_path: Path, home: Home) -> None:
    folder = write_adder(tmp_path)
    for number, content in enumerate(HARMLESS):
        (folder / f"{number}.txt").write_text(content)
    assert build_in(folder, home).notes == ()


# --- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HF_HOME", "TORCH_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"])
@pytest.mark.parametrize("value", ["/var/cache/models", "cache", "/tmp/../var"])
def test_a_cache_where_nothing_can_be_written_is_refused(tmp_path: Path, home: Home, variable: str, value: str) -> None:
    folder = write_adder(tmp_path, f'{MANIFEST}\n[environment]\n{variable} = "{value}"\n')
    with pytest.raises(PreflightError, match=rf"environment\.{variable} is '{value}'"):
        build_in(folder, home)


def test_a_cache_below_the_tmpfs_and_a_hub_of_the_project_s_own_are_fine(tmp_path: Path, home: Home) -> None:
    variables = '[environment]\nMPLCONFIGDIR = "/tmp/plots"\nHF_HOME = "/app/hub"\n'
    folder = write_adder(tmp_path, f"{MANIFEST}\n{variables}")
    (folder / "hub").mkdir()
    (folder / "hub" / "config.json").write_text("{}")
    environment = build_in(folder, home).image.config.environment
    assert {"MPLCONFIGDIR=/tmp/plots", "HF_HOME=/app/hub", "XDG_CACHE_HOME=/tmp/cache"} <= set(environment)


def test_a_cache_of_the_base_that_would_be_read_only_is_dropped(adder: Built, tmp_path: Path, home: Home) -> None:
    layout = Layout.open(home.images)
    variables = ("MPLCONFIGDIR=/var/plots", "NUMBA_CACHE_DIR=/tmp/numba", "OWN=kept")
    config = replace(adder.image.config, environment=(*adder.image.config.environment, *variables))
    image, manifest, document = assemble(config, adder.image.layer_blobs)
    layout.blobs.write(document)
    layout.blobs.write(manifest)
    layout.add(image, "closed-cache:1")
    folder = write_adder(tmp_path, f'{MANIFEST}\n[build]\nbase = "oci:{home.images}:closed-cache:1"\n')
    environment = set(build_in(folder, home).image.config.environment)
    assert environment & set(variables) == {"NUMBA_CACHE_DIR=/tmp/numba", "OWN=kept"}
