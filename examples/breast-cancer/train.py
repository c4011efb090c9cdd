"""Trains the model on the Wisconsin diagnostic data of scikit-learn (569 tumours) and writes model.joblib.

With --goldens it also writes goldens from the pipeline's own answers.
"""

import json
import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = Path(__file__).parent
NAMES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal_dimension",
)


def main() -> None:
    data = load_breast_cancer()
    # The first ten columns are the means over all nuclei of an image.
    measurements, benign = data.data[:, : len(NAMES)], data.target
    fit_x, test_x, fit_y, test_y = train_test_split(
        measurements, benign, test_size=0.25, random_state=0, stratify=benign
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=10.0, max_iter=1000))
    model.fit(fit_x, fit_y)
    joblib.dump(model, HERE / "model.joblib")
    print(f"model.joblib written; accuracy on {len(test_x)} tumours it has not seen: {model.score(test_x, test_y):.3f}")
    if "--goldens" in sys.argv:
        for row, name in ((0, "malignant"), (19, "benign")):
            write_golden(name, measurements[row], float(model.predict_proba(measurements[row : row + 1])[0, 0]))


def write_golden(name: str, row: list[float], malignant: float) -> None:
    golden = {
        "name": f"the data's tumour labelled {name}",
        "inputs": {key: round(float(value), 5) for key, value in zip(NAMES, row, strict=True)},
        "outputs": {"label": "malignant" if malignant >= 0.5 else "benign", "malignant": round(malignant, 5)},
        "tolerance": {"absolute": 0.001},
    }
    (HERE / "goldens" / f"{name}.json").write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main()
