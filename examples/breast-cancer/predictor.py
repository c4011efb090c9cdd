"""Malignant or benign? From ten measurements of cell nuclei in the image of a fine needle aspirate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import joblib
import numpy as np

from berth import Meta


@dataclass
class Diagnosis:
    """What the model thinks of a tumour."""

    label: Literal["malignant", "benign"]
    malignant: Annotated[float, Meta(ge=0, le=1, description="probability that the tumour is malignant")]


class BreastCancer:
    """Logistic regression on the Wisconsin diagnostic data."""

    def load(self) -> None:
        self.model = joblib.load(Path(__file__).parent / "model.joblib")

    def predict(
        self,
        radius: Annotated[float, Meta(gt=0, description="mean distance from the centre to the edge of a nucleus")],
        texture: Annotated[float, Meta(gt=0, description="standard deviation of grey values")],
        perimeter: Annotated[float, Meta(gt=0, description="mean perimeter of a nucleus")],
        area: Annotated[float, Meta(gt=0, description="mean area of a nucleus")],
        smoothness: Annotated[float, Meta(ge=0, le=1, description="local variation in radius")],
        compactness: Annotated[float, Meta(ge=0, description="perimeter squared / area - 1")],
        concavity: Annotated[float, Meta(ge=0, description="severity of the concave parts of the contour")],
        concave_points: Annotated[float, Meta(ge=0, description="number of concave parts, as a share")],
        symmetry: Annotated[float, Meta(ge=0, le=1, description="symmetry of the contour")],
        fractal_dimension: Annotated[float, Meta(ge=0, description="coastline approximation - 1")],
    ) -> Diagnosis:
        """Judge one tumour."""
        row = np.array(
            [
                [
                    radius,
                    texture,
                    perimeter,
                    area,
                    smoothness,
                    compactness,
                    concavity,
                    concave_points,
                    symmetry,
                    fractal_dimension,
                ]
            ]
        )
        malignant = float(self.model.predict_proba(row)[0, 0])
        return Diagnosis("malignant" if malignant >= 0.5 else "benign", malignant)
