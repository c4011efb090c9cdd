"""The demo: train a real model, build its image without a daemon, run and ask it; then deploy it, update it under load
and roll it back; and say what that took.

Called by `make demo`. It types the same commands as a user would and shows their output.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.load import Load, free_port  # noqa: E402  (this checkout's, which is no installed package)

EXAMPLE = ROOT / "examples" / "breast-cancer"
NAME = "breast-cancer-demo"


def main() -> None:
    """Do it all; stop at the first command that fails."""
    say("1. Train: logistic regression on the Wisconsin diagnostic data")
    run([sys.executable, "train.py"], "python train.py")
    say("2. Build: one OCI image, without a Docker daemon")
    started = time.monotonic()
    dockyard("build")
    building = time.monotonic() - started
    built = json.loads(subprocess.run(command("build", "--json"), cwd=EXAMPLE, capture_output=True, check=True).stdout)
    say("3. Test: the goldens, inside the image")
    dockyard("test")
    say("4. Run, and ask")
    started = time.monotonic()
    dockyard("run", "-d", "--name", NAME)
    try:
        inputs = json.loads((EXAMPLE / "goldens" / "malignant.json").read_text())["inputs"]
        pairs = [word for name, value in inputs.items() for word in ("-i", f"{name}={value}")]
        dockyard("predict", NAME, *pairs)
        first_answer = time.monotonic() - started
    finally:
        dockyard("stop", NAME)
    load = deploy(inputs)
    say("What it took")
    print(f"  image                            {built['size'] / 1e6:.1f} MB, {len(built['layers'])} layers")
    print(f"  building it                      {building:.1f} s")
    print(f"  building it once more            {built['seconds']:.2f} s, every layer reused")
    print(f"  container start to first answer  {first_answer:.2f} s, both commands included")
    print(f"  update and rollback under load   {load.answered} requests answered, {len(load.failures)} failed")
    print(NEXT)
    if load.failures:
        sys.exit(f"demo: requests failed, the first with: {load.failures[0]}")


def deploy(inputs: dict[str, object]) -> Load:
    """Deploy the image behind the gateway, update it to a second version under load, and roll that back."""
    say("5. Deploy: behind a gateway, on the yard of this machine")
    port = free_port()
    dockyard("up", "--detach", "--port", str(port))
    try:
        dockyard("deploy", "breast-cancer:1", "--name", NAME, "--replicas", "2", "--why", "the demo")
        say("6. Update to a second version, and go back, while requests keep coming")
        with tempfile.TemporaryDirectory() as folder:
            second = second_version(Path(folder))
            dockyard("build", str(second))
        with Load(port, f"/models/{NAME}/predict", inputs) as load:
            dockyard("deploy", "breast-cancer:2", "--name", NAME, "--strategy", "blue-green", "--why", "version 2")
            dockyard("rollback", NAME, "--why", "version 1 was nicer")
        dockyard("history", NAME)
        dockyard("delete", NAME, "--yes")
    finally:
        dockyard("down")
    return load


def second_version(folder: Path) -> Path:
    """The example's project with another version number."""
    project = folder / "breast-cancer"
    shutil.copytree(EXAMPLE, project)
    manifest = project / "dockyard.toml"
    manifest.write_text(re.sub(r'(?m)^version = ".*"$', 'version = "2"', manifest.read_text(), count=1))
    return project


NEXT = f"""
Try next, in {EXAMPLE.relative_to(ROOT)} (with {Path(".venv/bin/dockyard")} on your PATH):
  dockyard run -p 8080                 then open http://127.0.0.1:8080/docs
  edit predictor.py, dockyard build    only the code layer is made anew
  dockyard build --load                into a Docker Engine, if one answers here
  dockyard up                          then, in another terminal, dockyard deploy
  dockyard init                        in the folder of a model of your own
"""


def say(title: str) -> None:
    """A heading."""
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)


def command(*words: str) -> list[str]:
    """A dockyard command of this checkout."""
    return [str(Path(sys.executable).with_name("dockyard")), *words]


def dockyard(*words: str) -> None:
    """Type a dockyard command."""
    shown = " ".join(words if len(words) < 8 else (*words[:6], "..."))
    run(command(*words), f"dockyard {shown}")


def run(words: list[str], shown: str) -> None:
    """Show a command and run it in the example's folder; end the demo where it fails."""
    print(f"$ {shown}", flush=True)
    done = subprocess.run(words, cwd=EXAMPLE, env=os.environ, check=False, timeout=600)
    if done.returncode:
        sys.exit(f"demo: `{shown}` failed with exit code {done.returncode}; its message is above")


if __name__ == "__main__":
    main()
