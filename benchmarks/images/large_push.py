"""4 GB of weights pushed to a registry and pulled again: resident memory of the Dockyard process, and seconds.

`python -m benchmarks.images.large_push` prints one JSON object. The image has one layer of weights besides a small one;
the registry is Debian's docker-registry on loopback. Three copies of the weights lie on the disk for as long as it
takes: in the store, in the registry and in the second store. `dockyard push` and `pull` are the real commands; the
kernel tells the most memory that each had.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dockyard.oci.image import ImageConfig, Platform, assemble
from dockyard.oci.layer import Entry, write_layer
from dockyard.oci.layout import Layout
from dockyard.spec.home import Home
from tests.support.registry import running_registry

NAME = "large:1"
_SPARE = 1 << 30
_INTERVAL_S = 0.02


def measure(*, size: int = 4_000_000_000) -> dict[str, object]:
    """Seconds and the peak of resident memory (MB) of a push and of a pull of `size` bytes."""
    with tempfile.TemporaryDirectory(prefix="dy-large-") as name:
        folder = Path(name)
        free = shutil.disk_usage(folder).free
        if free < 3 * size + _SPARE:
            raise SystemExit(f"{folder} has {free / 1e9:.1f} GB free, and {3 * size / 1e9:.1f} GB and a bit are needed")
        here, there = Home(folder / "here"), Home(folder / "there")
        digest = _image(folder / "weights.bin", size, here)
        with running_registry(folder / "registry") as registry:
            push = _measured(here, "push", NAME, f"{registry.host}/{NAME}")
            pull = _measured(there, "pull", f"{registry.host}/{NAME}", "--name", NAME)
        pulled = Layout.open(there.images).entry(NAME).digest
    if pulled != digest:
        raise RuntimeError(f"pushed {digest}, pulled {pulled}")
    return {"benchmark": "images/large_push", "bytes": size, "push": push, "pull": pull}


def _image(weights: Path, size: int, home: Home) -> str:
    """An image with weights of `size` bytes, in the store of `home`; its digest. The file is sparse."""
    with weights.open("wb") as file:
        file.truncate(size)
    layout = Layout.create(home.images)
    layers = [
        write_layer([Entry("usr/bin/python3", 0o755, source=b"not really")], "gzip", layout.blobs),
        write_layer([Entry("app/weights.bin", 0o644, source=weights)], "none", layout.blobs),
    ]
    made = assemble(ImageConfig(Platform.host(), entrypoint=("/usr/bin/python3",), user="65532:0"), layers)
    layout.blobs.write(made.config)
    layout.blobs.write(made.manifest)
    layout.add(made.image, NAME)
    return made.image.manifest.digest


def _measured(home: Home, *words: str) -> dict[str, float]:
    """Run `dockyard WORDS` to its end."""
    command = [sys.executable, "-m", "dockyard.cli", *words]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        environment = {**os.environ, "DOCKYARD_HOME": str(home.root)}
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=told, stderr=told)
        peak, ended = 0, 0
        while not ended:
            # Not the rusage's: that counts what the parent had when it started the process.
            peak = max(peak, _high_water(process.pid))
            time.sleep(_INTERVAL_S)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            raise RuntimeError(f"dockyard {' '.join(words)} failed:\n{told.read().decode()}")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_resident_mb": peak * 1024 / 1e6, "processor_s": usage.ru_utime}


def _high_water(pid: int) -> int:
    """The most resident memory (KiB) that a process has had; 0 when it has ended."""
    found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=4_000_000_000)
    print(json.dumps(measure(size=parser.parse_args().bytes), indent=2))


if __name__ == "__main__":
    main()
