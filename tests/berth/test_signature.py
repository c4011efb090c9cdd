"""Type hints to schema: what is taken, and what is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import pytest

import berth
from berth.errors import InputError, SignatureError
from berth.rows import RowCodec
from berth.signature import signature_of


@dataclass
class WithArray:
    values: npt.NDArray[np.float32]


class Pair(NamedTuple):
    a: int
    b: list[float]


class Loose(TypedDict):
    a: str
    b: Annotated[npt.NDArray[np.float64], berth.Tensor("float64", (2, -1))]


def no_inputs() -> int: ...
def without_hint(x) -> int: ...  # type: ignore[no-untyped-def]
def star(*x: int) -> int: ...
def bare(x: np.ndarray) -> int: ...  # type: ignore[type-arg]
def no_dtype(x: npt.NDArray[Any]) -> int: ...
def strange_dtype(x: Annotated[npt.NDArray[Any], berth.Tensor("complex64")]) -> int: ...
def unknown_dtype(x: Annotated[npt.NDArray[Any], berth.Tensor("float99")]) -> int: ...
def misplaced(x: Annotated[int, berth.Tensor("float32")]) -> int: ...
def array_in_struct(x: WithArray) -> int: ...
def unknown_name(x: "Nowhere") -> int: ...  # type: ignore[name-defined]  # noqa: F821, UP037
def wrong_constraint(x: Annotated[str, berth.Meta(ge=1)]) -> int: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (no_inputs, "no input"),
        (without_hint, "parameter 'x'"),
        (star, "name every input"),
        (bare, "Tensor"),
        (no_dtype, "say the dtype"),
        (strange_dtype, "complex64"),
        (unknown_dtype, "float99"),
        (misplaced, "describes np.ndarray"),
        (array_in_struct, "make the array its own parameter"),
        (unknown_name, "Nowhere"),
        (wrong_constraint, "ge"),
    ],
)
def test_a_hint_that_makes_no_schema_is_refused_with_a_reason(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(SignatureError, match=words):
        signature_of(function)


def test_a_batched_predict_takes_and_returns_lists() -> None:
    def scalar(x: int) -> list[int]: ...  # type: ignore[empty-body]
    def default(x: list[int] = []) -> list[int]: ...  # type: ignore[empty-body]  # noqa: B006
    def answer(x: list[int]) -> int: ...  # type: ignore[empty-body]

    for function, words in ((scalar, "takes and returns lists"), (default, "no default"), (answer, "the return value")):
        with pytest.raises(SignatureError, match=words):
            signature_of(function, rows=True)


def test_arrays_are_cast_only_where_nothing_is_lost() -> None:
    def predict(
        small: Annotated[npt.NDArray[np.uint8], berth.Tensor("uint8", (None,))],
        any_shape: npt.NDArray[np.float64] | None = None,
        several: list[Annotated[npt.NDArray[np.int64], berth.Tensor("int64", (1,))]] | None = None,
    ) -> int: ...  # type: ignore[empty-body]

    signature = signature_of(predict)
    call = signature.decode(b'{"small":[0,255],"any_shape":[[1]],"several":[[1],[2]]}')
    assert call["small"].dtype == np.uint8
    assert call["any_shape"].tolist() == [[1.0]]
    assert [item.tolist() for item in call["several"]] == [[1], [2]]
    for body, words in (
        (b'{"small":[256]}', r"uint8 \(0 to 255\), got 256"),
        (b'{"small":[-1]}', "got -1"),
        (b'{"small":[1.0]}', "expected uint8, got floating-point numbers"),
        (b'{"small":[true]}', "booleans"),
        (b'{"small":[1],"several":[[1],[2,3]]}', r"\$\.several\[1\]"),
        (b'{"small":[100000000000000000000000]}', "small"),
    ):
        with pytest.raises(InputError, match=words):
            signature.decode(body)


def test_named_tuples_and_typed_dicts_are_one_tensor_per_field() -> None:
    def pair(x: int) -> Pair: ...  # type: ignore[empty-body]
    def loose(x: int) -> Loose: ...  # type: ignore[empty-body]

    def shown(codec: RowCodec) -> list[tuple[str, str, tuple[int, ...]]]:
        return [(item.name, item.datatype, item.shape) for item in codec.outputs]

    codec = RowCodec(signature_of(pair))
    assert shown(codec) == [
        ("a", "INT64", (-1,)),
        ("b", "FP64", (-1, -1)),
    ]
    tensors = codec.tensors([Pair(1, [1, 2]), Pair(2, [3, 4])])
    assert tensors["b"].tolist() == [[1, 2], [3, 4]]
    codec = RowCodec(signature_of(loose))
    assert shown(codec) == [
        ("a", "BYTES", (-1,)),
        ("b", "FP64", (-1, 2, -1)),
    ]
    assert codec.tensors([{"a": "t", "b": np.zeros((2, 3))}])["b"].shape == (1, 2, 3)


def test_every_public_name_is_there() -> None:
    for name in berth.__all__:
        assert getattr(berth, name) is not None
    with pytest.raises(AttributeError, match="Picture"):
        _ = berth.Picture
