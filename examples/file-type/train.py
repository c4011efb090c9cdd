"""Takes the trained network and its labels out of the installed package `magika`; nothing is trained here.

With --goldens it also writes goldens with the answers of that package itself, for files of this very project.
"""

import json
import shutil
import sys
from pathlib import Path

import magika

HERE = Path(__file__).parent
ORIGIN = Path(magika.__file__).parent / "models" / "standard_v3_3"
SAMPLES = {
    "python": "import os\n\n\ndef main() -> None:\n    for name in sorted(os.listdir('.')):\n        print(name)\n",
    "json": '{"name": "berth", "replicas": 2, "ports": [8080, 8081], "drain": {"seconds": 25.0}}\n',
    "shell": '#!/bin/sh\nset -e\nfor file in *.txt; do\n  echo "$file has $(wc -l <"$file") lines"\ndone\n',
}


def main() -> None:
    shutil.copyfile(ORIGIN / "model.onnx", HERE / "model.onnx")
    config = json.loads((ORIGIN / "config.min.json").read_text())
    (HERE / "labels.json").write_text(json.dumps(config["target_labels_space"]) + "\n")
    print(f"model.onnx and labels.json written: {len(config['target_labels_space'])} kinds of files")
    if "--goldens" in sys.argv:
        judge = magika.Magika()
        for name, text in SAMPLES.items():
            write_golden(name, text, judge.identify_bytes(text.encode()))


def write_golden(name: str, text: str, result: magika.MagikaResult) -> None:
    (HERE / "goldens" / f"{name}.txt").write_text(text)
    golden = {
        "name": f"a {name} file",
        "inputs": {"file": f"@{name}.txt"},
        "outputs": {"kind": str(result.dl.label), "score": round(result.score, 4)},
        "tolerance": {"absolute": 0.001},
    }
    (HERE / "goldens" / f"{name}.json").write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main()
