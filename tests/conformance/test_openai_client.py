"""OpenAI's own client against a berth server: sync, async, streaming, and what it makes of errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from tests.berth.support import serving
from tests.berth.tcp import on_tcp

MODELS = ("Chat", "AsyncChat", "Embed", "Complete", "CompleteStream", "Shout")
QUESTION: Any = [{"role": "user", "content": "one two three"}]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = [{"name": name, "predictor": f"models_faces:{name}"} for name in MODELS]
    models.append({"name": "worker", "predictor": "models_faces:Chat", "workers": 1})
    path = tmp_path_factory.mktemp("openai") / "models.json"
    path.write_text(json.dumps(models))
    with serving(MODELS=str(path)) as server, on_tcp(server) as address:
        yield f"{address}/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=20) as client:
        yield client


def test_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [*MODELS, "worker"]
    assert client.models.retrieve("Chat").owned_by == "berth"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("nothing")
    assert "no model 'nothing'" in missing.value.response.json()["error"]


def test_embeddings_come_as_base64_without_asking(client: openai.OpenAI) -> None:
    raw = client.embeddings.with_raw_response.create(model="Embed", input=["aa b", "abc"])
    sent = json.loads(raw.http_request.content)
    assert sent["encoding_format"] == "base64"
    assert isinstance(json.loads(raw.content)["data"][0]["embedding"], str)
    answer = raw.parse()
    assert np.allclose([item.embedding for item in answer.data], [[4, 2, 0.1], [3, 1, 0.1]])
    assert answer.usage.prompt_tokens == 3


def test_embeddings_as_numbers(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="Embed", input="aa b", encoding_format="float")
    assert np.allclose(answer.data[0].embedding, [4, 2, 0.1])


@pytest.mark.parametrize("model", ["Chat", "worker"])
def test_a_chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0.1, max_completion_tokens=2)
    assert answer.choices[0].message.content == "one two"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5


@pytest.mark.parametrize("model", ["Chat", "worker"])
def test_a_chat_as_a_stream(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.create(
        model=model, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "one", " two", " three", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.completion_tokens == 3


def test_the_clients_own_reading_of_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="Chat", messages=QUESTION) as stream:
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == "one two three"


async def test_the_asynchronous_client(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=20) as client:
        answer = await client.chat.completions.create(model="AsyncChat", messages=QUESTION)
        assert answer.choices[0].message.content == "onetwothree"
        stream = await client.chat.completions.create(model="AsyncChat", messages=QUESTION, stream=True)
        texts = [chunk.choices[0].delta.content async for chunk in stream]
        assert texts == ["", "one", "two", "three", None]
        vectors = await client.embeddings.create(model="Embed", input=["a"])
        assert np.allclose(vectors.data[0].embedding, [1, 1, 0.1])


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="Complete", prompt=["abc", "de"])
    assert [choice.text for choice in answer.choices] == ["cba", "ed"]
    with client.completions.create(model="CompleteStream", prompt="abc", stream=True) as stream:
        assert [chunk.choices[0].text for chunk in stream] == ["a", "b", "c", ""]


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nothing", messages=QUESTION)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert missing.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="cannot chat") as unable:
        client.chat.completions.create(model="Shout", messages=QUESTION)
    assert unable.value.code == "unsupported_model"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="Chat", messages=QUESTION, n=2)
    assert (refused.value.param, refused.value.code) == ("n", "unsupported_parameter")
    with pytest.raises(openai.InternalServerError, match="error id"):
        client.chat.completions.create(model="Chat", messages=[{"role": "user", "content": "break"}])


def test_a_stream_that_breaks_off_raises(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "one break"}]
    with client.chat.completions.create(model="Chat", messages=messages, stream=True) as stream:
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "one"]
        with pytest.raises(openai.APIError, match="error id"):
            next(stream)
