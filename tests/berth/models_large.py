"""Predictors for large bodies."""

from typing import Annotated, Any

import numpy as np

import berth


class Grid:
    def predict(
        self,
        x: Annotated[np.ndarray, berth.Tensor("float32", (-1, -1))],  # type: ignore[type-arg]
        n: Annotated[np.ndarray, berth.Tensor("int32", (-1,))] | None = None,  # type: ignore[type-arg]
        name: str = "",
    ) -> dict[str, Any]:
        return {
            "shape": list(x.shape),
            "sum": float(x.astype(np.float64).sum()),
            "nan": int(np.isnan(x).sum()),
            "n": None if n is None else int(n.sum()),
            "name": name,
        }


class Plain:
    def predict(self, values: list[float], text: str = "") -> dict[str, float]:
        return {"sum": sum(values), "text": len(text)}
