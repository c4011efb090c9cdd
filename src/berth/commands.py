"""What `berth predict`, `schema` and `selftest` do: the model in this process, without a server.

`__main__` reads the arguments and the configuration and calls one of these; each returns the exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import berth
from berth.config import Config
from berth.errors import InputError, ModelError
from berth.executor import FailureKind, run_batch
from berth.files import File
from berth.goldens import Verdict, check, read_goldens
from berth.local_calls import load_with_others
from berth.model import Model
from berth.protocols.openapi import describe_model
from berth.signature import Call, Signature


def predict(config: Config, inputs: Sequence[str] | None) -> int:
    """One prediction from `-i NAME=VALUE` or a JSON object on standard input; prints the answer as JSON."""
    model = load_with_others(config.models)
    try:
        call = _read_inputs(model.signature, inputs) if inputs else _read_json(model.signature)
        call = model.prepare(call)
    except InputError as error:
        raise InputError(f"the input does not fit the model: {error}") from error
    outcome = run_batch(model, [[call]]).outcomes[0]
    if isinstance(outcome, list):
        sys.stdout.buffer.write(model.encode(outcome[0]) + b"\n")
        sys.stdout.flush()
        return 0
    if outcome.kind is FailureKind.INPUT:
        raise InputError(f"the input does not fit the model: {outcome.text}")
    sys.stderr.write(outcome.trace)
    raise ModelError("predict failed; the traceback above says why")


def schema(config: Config) -> int:
    """Print the model's name, tensors and OpenAPI document as JSON."""
    model = load_with_others(config.models)
    document = {
        "name": config.model.name,
        "version": config.model.version,
        "contract": berth.CONTRACT,
        "inputs": model.inputs,
        "outputs": model.outputs,
        "openapi": describe_model(model, config.model.name, config.model.version, config.model.description),
    }
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    sys.stdout.flush()
    return 0


def selftest(config: Config, *, as_json: bool = False) -> int:
    """Answer every golden; print a table, or JSON; 1 when one differs or there is none."""
    goldens = read_goldens(config.goldens)
    if not goldens:
        raise ModelError(f"BERTH_GOLDENS: no goldens in {config.goldens.absolute()}; add <name>.json files to it")
    model: Model = load_with_others(config.models)
    verdicts = [check(model, golden) for golden in goldens]
    if as_json:
        told = [{"golden": verdict.name, "problem": verdict.problem} for verdict in verdicts]
        print(msgspec.json.encode(told).decode())
    else:
        print(_table(verdicts))
    return 1 if any(verdict.problem for verdict in verdicts) else 0


def _read_json(signature: Signature) -> Call:
    body = sys.stdin.buffer.read()
    try:
        return signature.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"standard input is not valid JSON: {error}") from error


def _read_inputs(signature: Signature, inputs: Sequence[str]) -> Call:
    values: dict[str, Any] = {}
    for item in inputs:
        name, equals, text = item.partition("=")
        if not equals:
            raise InputError(f"-i {item}: expected NAME=VALUE or NAME=@FILE")
        values[name] = _read_file(item, text[1:]) if text.startswith("@") else signature.parse_text(name, text)
    return signature.convert(values)


def _read_file(item: str, path: str) -> File:
    try:
        return File(Path(path).read_bytes(), Path(path).name)
    except OSError as error:
        raise InputError(f"-i {item}: {path} cannot be read: {error.strerror}") from error


def _table(verdicts: Sequence[Verdict]) -> str:
    width = max(len("golden"), *(len(verdict.name) for verdict in verdicts))
    head = f"{'golden':<{width}}  result"
    lines = [f"{item.name:<{width}}  {'differs: ' + item.problem if item.problem else 'same'}" for item in verdicts]
    passed = sum(not verdict.problem for verdict in verdicts)
    return "\n".join([head, *lines, "", f"{passed} of {len(verdicts)} goldens hold"])
