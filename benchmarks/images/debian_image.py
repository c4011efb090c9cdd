"""The image that the Dockerfiles start from: Debian with Python and pip, made here, since a registry may not be there.

It is what `python:3-slim` is: a minimal Debian without manuals and translations, Python, pip and venv. mmdebstrap
makes it once from this machine's Debian release; the tar is kept in the benchmarks' cache. So that RUN steps reach the
package index that this machine reaches, the image in the engine gets the machine's certificates, and pip's and uv's
settings from the environment; nothing of that is written anywhere else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from uv import find_uv_bin

from benchmarks.images.engine import Engine
from benchmarks.serving.environments import NotRun, cache
from dockyard.build.sources import host_suite

BASE = "dockyard-benchmark-base:1"
UV = "dockyard-benchmark-uv:1"
_PLAIN = "dockyard-benchmark-plain:1"
_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
_TRIMMED = ("doc", "man", "locale", "info")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_INDEX_SETTINGS = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "UV_INDEX_URL", "UV_DEFAULT_INDEX",
    "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


def make_images(engine: Engine) -> None:
    """Put the base and the image that holds uv into the engine."""
    engine.load_tree(_tree(), _PLAIN)
    with tempfile.TemporaryDirectory(prefix="dy-base-") as name:
        folder = Path(name)
        shutil.copyfile(_CERTIFICATES, folder / "certificates.crt")
        settings = {name: value for name in _INDEX_SETTINGS if (value := os.environ.get(name))}
        settings |= {"SSL_CERT_FILE": str(_CERTIFICATES), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        settings["PIP_BREAK_SYSTEM_PACKAGES"] = "1"  # pip installs, as it does in Docker Hub's image of Python
        lines = [f"FROM {_PLAIN}", f"COPY certificates.crt {_CERTIFICATES}"]
        lines += [f'ENV {name}="{value}"' for name, value in settings.items()]
        (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
        engine.build(folder, BASE)
        shutil.copyfile(find_uv_bin(), folder / "uv")
        (folder / "uv").chmod(0o755)
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY uv /uv\n")
        engine.build(folder, UV)


def _tree() -> Path:
    """The root file system, as a tar; made when it is not there."""
    suite = host_suite()
    tar = cache() / f"debian-{suite}-python.tar"
    if tar.exists():
        return tar
    if not shutil.which("mmdebstrap"):
        raise NotRun("mmdebstrap makes the Debian base of the Dockerfiles: apt-get install mmdebstrap")
    tar.parent.mkdir(parents=True, exist_ok=True)
    part = tar.with_name(f"part-{tar.name}")
    trim = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _TRIMMED]
    words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", *trim, suite, str(part)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise NotRun(f"mmdebstrap could not make the Debian base: {done.stderr.strip()[-500:]}")
    part.replace(tar)
    return tar
