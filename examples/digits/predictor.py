"""Which digit is in the picture? A picture of any size in, a label and ten probabilities out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime
from PIL import Image as Pictures

from berth import Image, Meta


@dataclass
class Reading:
    """What the network reads."""

    label: Annotated[int, Meta(ge=0, le=9)]
    probabilities: dict[str, float]


class Digits:
    """A network with one hidden layer, trained on pictures of eight by eight pixels."""

    def load(self) -> None:
        self.session = onnxruntime.InferenceSession(Path(__file__).parent / "model.onnx")
        self.input = self.session.get_inputs()[0].name

    def predict(self, picture: Annotated[Image, Meta(description="one digit, dark ink on light paper")]) -> Reading:
        """Read one digit."""
        small = picture.pil("L").resize((8, 8), Pictures.Resampling.BOX)
        ink = (255 - np.asarray(small, dtype=np.float32)) * (16 / 255)
        _, scores = self.session.run(None, {self.input: ink.reshape(1, 64)})
        probabilities = {str(digit): round(float(score), 6) for digit, score in enumerate(scores[0])}
        return Reading(int(scores[0].argmax()), probabilities)
