"""What callers of a model must know, as an image's label carries it: its inputs and outputs.

`build` writes it for models that a format loads, whose file says it; `supply.face` reads it. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """A tensor by name, with a datatype of the V2 protocol (`FP32`); a size of -1 is free."""

    name: str
    datatype: str
    shape: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.datatype}[{', '.join(map(str, self.shape))}]"


class Signature(msgspec.Struct, frozen=True, omit_defaults=True):
    """One model's inputs and outputs, as far as its file tells them; `estimator` is a scikit-learn class."""

    model: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    estimator: str = ""
    classes: int = 0


def encode(signatures: Sequence[Signature]) -> str:
    """As the label has it; the same signatures give the same text."""
    return msgspec.json.encode(signatures).decode()


def decode(text: str) -> tuple[Signature, ...]:
    """What a label says; nothing when it cannot be read."""
    try:
        return msgspec.json.decode(text, type=tuple[Signature, ...])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ()
