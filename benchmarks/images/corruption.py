"""How many of 1,000 random single-byte changes to a signed image's layout are noticed. The aim is all of them.

A small image with signatures and documents is written once; each trial changes one byte of one file (layout, index,
blobs of layers, configurations, manifests, signatures) in place, verifies as `dockyard verify` does, and changes it
back. `python -m benchmarks.images.corruption` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from pathlib import Path

from dockyard.cli.verify import verified
from dockyard.errors import DockyardError
from dockyard.oci.image import ImageConfig, Platform, assemble
from dockyard.oci.layer import Entry, write_layer
from dockyard.oci.layout import Layout
from dockyard.supply.evidence import add_evidence
from dockyard.supply.keys import PrivateKey, PublicKey
from dockyard.supply.sign import sign_all
from dockyard.supply.statement import PROVENANCE, SBOM

NAME = "iris:1"


def measure(*, trials: int = 1000, seed: int = 1) -> dict[str, object]:
    """Change, verify, change back."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="dy-corruption-") as name:
        key = PrivateKey.generate()
        layout = _signed_layout(Path(name), key)
        files = [path for path in sorted(layout.path.rglob("*")) if path.is_file() and path.name != "lock"]
        noticed: Counter[str] = Counter()
        missed: list[str] = []
        assert _notices(layout.path, key.public) == "", "the untouched image must verify"
        for _ in range(trials):
            path = chance.choice(files)
            whole = path.read_bytes()
            position = chance.randrange(len(whole))
            changed = bytes([whole[position] ^ (1 << chance.randrange(8))])
            path.write_bytes(whole[:position] + changed + whole[position + 1 :])
            found = _notices(layout.path, key.public)
            path.write_bytes(whole)
            noticed[found] += 1
            if not found:
                missed.append(f"{path.relative_to(layout.path)} at {position}: {whole[position]:#x} -> {changed.hex()}")
    return {
        "benchmark": "images/corruption",
        "files": len(files),
        "trials": trials,
        "noticed": trials - len(missed),
        "by": dict(noticed),
        "missed": missed,
    }


def _notices(path: Path, key: PublicKey) -> str:
    """The name of the error that verifying raises; empty when there is none."""
    try:
        layout = Layout.open(path)
        verdicts = verified(layout, layout.entry(NAME), [key])
    except DockyardError as error:
        return type(error).__name__
    complete = all(len(one.signatures) == 2 and len(one.attestations) == 2 and not one.untrusted for one in verdicts)
    return "" if complete and verdicts else "evidence is missing"


def _signed_layout(folder: Path, key: PrivateKey) -> Layout:
    layout = Layout.create(folder / "layout")
    chance = random.Random(0)
    layers = [
        write_layer([Entry("usr/bin/python3", 0o755, source=chance.randbytes(3000))], "gzip", layout.blobs),
        write_layer([Entry("app/model.onnx", 0o644, source=chance.randbytes(2000))], "none", layout.blobs),
    ]
    made = assemble(ImageConfig(Platform.host(), entrypoint=("/usr/bin/python3",), user="65532:0"), layers)
    layout.blobs.write(made.config)
    layout.blobs.write(made.manifest)
    layout.add(made.image, NAME)
    documents = {kind: {"made": "for a benchmark"} for kind in (SBOM, PROVENANCE)}
    add_evidence(layout, made.image.manifest, "iris", documents)
    sign_all(layout, made.image.manifest, "iris", key)
    return layout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(measure(trials=options.trials, seed=options.seed), indent=2))


if __name__ == "__main__":
    main()
