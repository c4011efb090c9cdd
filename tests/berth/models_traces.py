"""Predictors that say what they would send on."""

from collections.abc import Iterator

import berth


class One:
    def predict(self, x: float) -> dict[str, str]:
        return berth.trace_headers()


class Asynchronous:
    async def predict(self, x: float) -> dict[str, str]:
        return berth.trace_headers()


class Many:
    @berth.batched
    def predict(self, x: list[float]) -> list[dict[str, str]]:
        if min(x) < 0:
            raise berth.InputError("x: expected 0 or more")
        return [berth.trace_headers(index) for index in range(len(x))]


class Items:
    def predict(self, x: float) -> Iterator[dict[str, str]]:
        yield berth.trace_headers()
        yield berth.trace_headers()


class Relays:
    """Says its own headers, and those of a model that it calls."""

    def load(self) -> None:
        self.one = berth.use_model("one")

    def predict(self, x: float) -> list[dict[str, str]]:
        return [berth.trace_headers(), self.one.predict(x=x)]


class RelaysAsync:
    async def load(self) -> None:
        self.one = berth.use_model("one")

    async def predict(self, x: float) -> list[dict[str, str]]:
        return [berth.trace_headers(), await self.one.predict_async(x=x)]


class RelaysItems:
    def load(self) -> None:
        self.one = berth.use_model("one")

    def predict(self, x: float) -> Iterator[list[dict[str, str]]]:
        yield [berth.trace_headers(), self.one.predict(x=x)]
