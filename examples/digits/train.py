"""Trains a small network on the handwritten digits of scikit-learn (1,797 pictures) and writes model.onnx.

With --goldens it also writes pictures that it was not trained on, with the network's own answers.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

HERE = Path(__file__).parent
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main() -> None:
    pixels, labels = load_digits(return_X_y=True)
    fit_x, test_x, fit_y, test_y = train_test_split(pixels, labels, test_size=0.25, random_state=0, stratify=labels)
    model = make_pipeline(MinMaxScaler((0, 1)), MLPClassifier((64,), max_iter=400, random_state=0))
    model.fit(fit_x, fit_y)
    network = to_onnx(model, fit_x[:1].astype(np.float32), options={"zipmap": False}, target_opset=17, name="digits")
    (HERE / "model.onnx").write_bytes(network.SerializeToString())
    print(f"model.onnx written; accuracy on {len(test_x)} pictures it has not seen: {model.score(test_x, test_y):.3f}")
    if "--goldens" in sys.argv:
        for digit in (0, 3, 7):
            write_golden(WORDS[digit], test_x[list(test_y).index(digit)], model)


def write_golden(name: str, row: np.ndarray, model) -> None:
    # Ink is 0 to 16 in the data set; a picture has black ink on white paper.
    picture = Image.fromarray((255 - row.reshape(8, 8) * 255 / 16).round().astype(np.uint8))
    picture.resize((64, 64), Image.Resampling.NEAREST).save(HERE / "goldens" / f"{name}.png")
    probabilities = model.predict_proba(row.reshape(1, -1))[0]
    golden = {
        "name": f"a handwritten {name}",
        "inputs": {"picture": f"@{name}.png"},
        "outputs": {
            "label": int(probabilities.argmax()),
            "probabilities": {str(digit): round(float(value), 5) for digit, value in enumerate(probabilities)},
        },
        "tolerance": {"absolute": 0.02},
    }
    (HERE / "goldens" / f"{name}.json").write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main()
