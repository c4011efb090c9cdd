"""How bad a problem is said to be, in one scale, `SCALE`; empty when its record does not say.

Records say it in a word, or as a CVSS 3 vector whose base score is computed here. Called by `osv` and `tracker`. Pure.
Source: CVSS v3.1 specification, sections 7.1 (base metrics equations), 5 (ratings) and appendix A (rounding).
"""

from __future__ import annotations

import math

SCALE = ("unimportant", "low", "medium", "high", "critical")

_WORDS = {**{word: word for word in SCALE}, "moderate": "medium"}
_METRICS = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES = {"U": {"N": 0.85, "L": 0.62, "H": 0.27}, "C": {"N": 0.85, "L": 0.68, "H": 0.5}}


def of_word(word: str) -> str:
    """What a publisher calls it; Debian's stars ("low**": not looked at closely) are left out."""
    return _WORDS.get(word.strip().lower().rstrip("*"), "")


def of_vector(vector: str) -> str:
    """The rating of a CVSS 3 vector; empty when it is of another version, or broken."""
    if not vector.startswith("CVSS:3."):
        return ""
    metrics = dict(part.partition(":")[::2] for part in vector.split("/")[1:])
    try:
        return _rating(_base_score(metrics))
    except KeyError:
        return ""


def worst(severities: set[str]) -> str:
    """The highest of several; empty when none is known."""
    return next((one for one in reversed(SCALE) if one in severities), "")


def _base_score(metrics: dict[str, str]) -> float:
    value = {name: weights[metrics[name]] for name, weights in _METRICS.items()}
    changed = metrics["S"] == "C"
    privileges = _PRIVILEGES[metrics["S"]][metrics["PR"]]
    lost = 1 - (1 - value["C"]) * (1 - value["I"]) * (1 - value["A"])
    impact = 7.52 * (lost - 0.029) - 3.25 * (lost - 0.02) ** 15 if changed else 6.42 * lost
    if impact <= 0:
        return 0.0
    ease = 8.22 * value["AV"] * value["AC"] * privileges * value["UI"]
    return _round_up(min((1.08 if changed else 1.0) * (impact + ease), 10))


def _round_up(score: float) -> float:
    """To one decimal, upwards, without being misled by the last bits of floating point."""
    scaled = round(score * 100_000)
    return scaled / 100_000 if scaled % 10_000 == 0 else (math.floor(scaled / 10_000) + 1) / 10


def _rating(score: float) -> str:
    if score >= 9:
        return "critical"
    if score >= 7:
        return "high"
    return "medium" if score >= 4 else "low" if score > 0 else ""
