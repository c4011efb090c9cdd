"""Goldens: inputs with their expected outputs, the proof that an image answers the same everywhere.

A folder of `*.json`, each `{"name"?, "inputs": {...}, "outputs": ..., "tolerance"?: {"absolute", "relative"}}`. Inputs
are native JSON; a string "@file.png" where a File or Image is wanted means that file, relative to the folder.
`berth selftest` calls `read_goldens` and `check`; selftest.py asks the model where it is served, and then `judge`.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from berth.errors import BerthError, GoldenError
from berth.executor import Outcome, run_batch
from berth.model import Model

NOT_A_CALL = (BerthError, msgspec.DecodeError, TypeError)


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a number may be from the expected one: `absolute + relative * |expected|`."""

    absolute: float = 1e-6
    relative: float = 1e-6


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input with its expected output."""

    inputs: dict[str, Any]
    outputs: Any
    name: str = ""
    tolerance: Tolerance = Tolerance()


@dataclass(frozen=True)
class Verdict:
    """What came of one golden; `problem` is empty when it holds."""

    name: str
    problem: str


def read_goldens(folder: Path) -> list[Golden]:
    """Every golden of a folder, sorted by file name; none when the folder does not exist."""
    if not folder.exists():
        return []
    return [_read(path) for path in sorted(folder.glob("*.json"))]


def check(model: Model, golden: Golden) -> Verdict:
    """Ask the model here and now, and compare with what the golden expects."""
    try:
        outcome = run_batch(model, [[call_of(model, golden)]]).outcomes[0]
    except NOT_A_CALL as error:
        return Verdict(golden.name, str(error))
    return judge(model, golden, outcome)


def call_of(model: Model, golden: Golden) -> Any:
    """The golden's inputs as the model runs them; one of NOT_A_CALL when they do not fit."""
    return model.prepare(model.signature.decode(msgspec.json.encode(golden.inputs)))


def judge(model: Model, golden: Golden, outcome: Outcome) -> Verdict:
    """Compare what came of a golden's call with what it expects."""
    if not isinstance(outcome, list):
        return Verdict(golden.name, f"predict failed: {outcome.text}\n{outcome.trace}")
    try:
        answer = msgspec.json.decode(model.encode(outcome[0]))
    except NOT_A_CALL as error:
        return Verdict(golden.name, str(error))
    return Verdict(golden.name, difference(golden.outputs, answer, golden.tolerance))


def difference(expected: Any, got: Any, tolerance: Tolerance, path: str = "$") -> str:
    """Where two JSON values differ first, in words; empty when they agree within the tolerance."""
    if _is_number(expected) and _is_number(got):
        near = math.isclose(expected, got, rel_tol=0, abs_tol=tolerance.absolute + tolerance.relative * abs(expected))
        return "" if near else f"{path}: expected {expected}, got {got}"
    if isinstance(expected, dict) and isinstance(got, dict):
        return _object_difference(expected, got, tolerance, path)
    if isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            return f"{path}: expected {len(expected)} items, got {len(got)}"
        pairs = enumerate(zip(expected, got, strict=True))
        found = (difference(want, have, tolerance, f"{path}[{index}]") for index, (want, have) in pairs)
        return next(filter(None, found), "")
    if type(expected) is type(got) and expected == got:
        return ""
    return f"{path}: expected {_short(expected)}, got {_short(got)}"


def _object_difference(expected: dict[str, Any], got: dict[str, Any], tolerance: Tolerance, path: str) -> str:
    for key, value in expected.items():
        if key not in got:
            return f"{path}.{key}: expected {_short(value)}, got nothing"
    for key, value in got.items():
        if key not in expected:
            return f"{path}.{key}: expected nothing, got {_short(value)}"
    found = (difference(value, got[key], tolerance, f"{path}.{key}") for key, value in expected.items())
    return next(filter(None, found), "")


def _read(path: Path) -> Golden:
    try:
        golden = msgspec.json.decode(path.read_bytes(), type=Golden)
    except (OSError, msgspec.DecodeError) as error:
        raise GoldenError(f"{path}: not a golden: {error}") from error
    inputs = {name: _with_files(value, path.parent, path) for name, value in golden.inputs.items()}
    return msgspec.structs.replace(golden, inputs=inputs, name=golden.name or path.stem)


def _with_files(value: Any, folder: Path, golden: Path) -> Any:
    if isinstance(value, list):
        return [_with_files(item, folder, golden) for item in value]
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    file = (folder / value[1:]).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise GoldenError(f"{golden}: {value!r} lies outside the goldens' folder")
    try:
        return {"b64": base64.b64encode(file.read_bytes()).decode(), "name": file.name}
    except OSError as error:
        raise GoldenError(f"{golden}: {value!r} cannot be read: {error.strerror}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."
