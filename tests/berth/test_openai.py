"""OpenAI's API, byte by byte: what is answered, streamed, passed on and refused."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from tests.berth.support import Answer, Berth, serving

NAMES = (
    *("Embed", "EmbedAll", "EmbedCounted", "Shout", "Divide", "Chat", "AsyncChat", "WholeChat"),
    *("Complete", "CompleteStream", "Wrong"),
)
SLASHED = "team/chat it"


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Berth]:
    models: list[dict[str, Any]] = [{"name": name, "predictor": f"models_faces:{name}"} for name in NAMES]
    models += [{**model, "name": f"{model['name']}-worker", "workers": 1} for model in (models[0], models[5])]
    models += [{"name": SLASHED, "predictor": "models_faces:Chat", "version": "7"}]
    models += [{"name": "double", "format": "onnx", "weights": str(weights / "double.onnx")}]
    path = tmp_path_factory.mktemp("openai") / "models.json"
    path.write_text(json.dumps(models))
    with serving(MODELS=str(path), MAX_BODY_BYTES="100000") as server:
        yield server


def embed(server: Berth, model: str = "Embed", **body: Any) -> Answer:
    return server.post("/v1/embeddings", {"model": model, **body})


def chat(server: Berth, text: str, model: str = "Chat", timeout: float = 30.0, **body: Any) -> Answer:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]
    question = {"model": model, "messages": messages, **body}
    return server.post("/v1/chat/completions", question, {"X-Request-Timeout": str(timeout)})


def complete(server: Berth, prompt: Any, model: str = "Complete", **body: Any) -> Answer:
    return server.post("/v1/completions", {"model": model, "prompt": prompt, **body})


def problem(answer: Answer, status: int, param: str | None = None, code: str | None = None) -> str:
    """The message of an error, whose other fields are checked."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    error = answer.json["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert (error["param"], error["code"]) == (param, code)
    message: str = error["message"]
    return message


def chunks(answer: Answer) -> list[Any]:
    """The chunks of a stream that ended well, without its last word."""
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "text/event-stream"
    *events, done = answer.body.decode().removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


# -- embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["Embed", "Embed-worker"])
def test_each_text_has_a_vector_in_order(server: Berth, model: str) -> None:
    answer = embed(server, model, input=["aa b", "abc"], encoding_format="float").json
    assert answer["object"] == "list"
    assert answer["model"] == model
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    assert np.allclose([item["embedding"] for item in answer["data"]], [[4, 2, 0.1], [3, 1, 0.1]])
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert np.allclose(embed(server, model, input="aa b").json["data"][0]["embedding"], [4, 2, 0.1])


def test_base64_is_of_little_endian_float32(server: Berth) -> None:
    (item,) = embed(server, input="aa b", encoding_format="base64").json["data"]
    assert base64.b64decode(item["embedding"]) == np.array([4, 2, 0.1], dtype="<f4").tobytes()


def test_a_predictor_may_take_all_texts_at_once_and_the_number_of_dimensions(server: Berth) -> None:
    answer = embed(server, "EmbedAll", input=["a", "bcd"], dimensions=3).json
    assert [item["embedding"] for item in answer["data"]] == [[1.0, 0.5, 0.25], [3.0, 0.5, 0.25]]
    assert len(embed(server, "EmbedAll", input="a").json["data"][0]["embedding"]) == 2
    assert "vectors of one size" in problem(
        embed(server, input="a", dimensions=3), 400, "dimensions", "unsupported_parameter"
    )


def test_a_predictor_may_count_its_tokens(server: Berth) -> None:
    answer = embed(server, "EmbedCounted", input=["ab", "c"], user="u").json
    assert [item["embedding"] for item in answer["data"]] == [[1.0, 2.0], [1.0, 2.0]]
    assert answer["usage"] == {"prompt_tokens": 83, "total_tokens": 83}


@pytest.mark.parametrize("given", [None, [], "", 3, [1, 2], [[1, 2]], ["a", None], ["a"] * 2049])
def test_what_is_no_text_is_refused(server: Berth, given: Any) -> None:
    if given == "":
        assert embed(server, input=given).status == 200
    else:
        assert "expected" in problem(embed(server, input=given), 400, "input")


def test_an_unknown_encoding_is_refused(server: Berth) -> None:
    assert "'int8'" in problem(embed(server, input="a", encoding_format="int8"), 400, "encoding_format")


@pytest.mark.parametrize("model", ["Shout", "Divide", "double", "Chat", "Complete"])
def test_a_model_without_embeddings_says_so(server: Berth, model: str) -> None:
    text = problem(embed(server, model, input="a"), 400, "model", "unsupported_model")
    assert f"{model!r} makes no embeddings" in text


def test_a_text_model_of_tensors_makes_embeddings(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("StringNormalizer", ["x"], ["n"]),
        helper.make_node("Equal", ["n", "a"], ["e"]),
        helper.make_node("Cast", ["e"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["f", "axis"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [
            helper.make_tensor("a", TensorProto.STRING, [1], [b"a"]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    model.ir_version = 9
    save(model, str(tmp_path / "text.onnx"))
    with serving(FORMAT="onnx", WEIGHTS=str(tmp_path / "text.onnx")) as server:
        answer = embed(server, "model", input=["a", "b"]).json
        assert [item["embedding"] for item in answer["data"]] == [[1.0], [0.0]]


# -- chat -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["Chat", "Chat-worker", SLASHED, f"{SLASHED}/versions/7"])
def test_a_chat_is_answered_whole(server: Berth, model: str) -> None:
    answer = chat(server, "one two", model).json
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", model.partition("/versions")[0])
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "one two", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


@pytest.mark.parametrize("model", ["Chat", "Chat-worker"])
def test_a_chat_is_streamed_in_chunks(server: Berth, model: str) -> None:
    found = chunks(chat(server, "one two", model, stream=True))
    assert len({chunk["id"] for chunk in found}) == 1
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["delta"] for chunk in found] == [
        {"role": "assistant", "content": ""},
        {"content": "one"},
        {"content": " two"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None, None, None, "stop"]
    assert all("usage" not in chunk for chunk in found)


def test_the_usage_comes_last_when_it_is_asked_for(server: Berth) -> None:
    *found, last = chunks(chat(server, "one two", stream=True, stream_options={"include_usage": True}))
    assert all(chunk["usage"] is None for chunk in found)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


def test_a_predictor_that_answers_whole_can_be_asked_for_a_stream(server: Berth) -> None:
    found = chunks(chat(server, "x", "WholeChat", stream=True, stream_options={"include_usage": True}))
    deltas = [chunk["choices"][0]["delta"].get("content") for chunk in found[:-1]]
    assert deltas == ["", "2 None None", None]
    assert found[-2]["choices"][0]["finish_reason"] == "length"
    assert found[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_a_predictor_may_say_why_it_ended_and_what_it_counted(server: Berth) -> None:
    answer = chat(server, "x", "WholeChat").json
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_parameters_go_to_the_inputs_of_their_names(server: Berth) -> None:
    def content(answer: Answer) -> Any:
        return answer.json["choices"][0]["message"]["content"]

    assert content(chat(server, "settings", temperature=0.5, max_tokens=9)) == "temperature=0.5 max_tokens=9"
    both = chat(server, "settings", max_completion_tokens=5, max_tokens=9)
    assert content(both) == "temperature=1.0 max_tokens=5"
    assert content(chat(server, "x", "WholeChat", stop="a", seed=4)) == "2 ['a'] 4"
    assert content(chat(server, "x", "WholeChat", stop=["a", "b"], seed=None)) == "2 ['a', 'b'] None"
    assert "`float`" in problem(chat(server, "x", temperature="hot"), 400, "temperature")


@pytest.mark.parametrize(
    "extra",
    [
        {"top_p": 0.1, "seed": 3, "presence_penalty": 1, "frequency_penalty": 1, "logit_bias": {"1": 2}},
        {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "unknown_field": 1},
        {"n": 1, "stop": None, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}},
        {"logprobs": False, "top_logprobs": 0, "stream": False, "stream_options": None},
    ],
)
def test_what_only_steers_or_asks_nothing_is_accepted(server: Berth, extra: dict[str, Any]) -> None:
    assert chat(server, "one", **extra).json["choices"][0]["message"]["content"] == "one"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("n", True),
        ("stop", "x"),
        ("stop", ["x"]),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("top_logprobs", 2),
        ("modalities", ["audio"]),
    ],
)
def test_what_would_change_the_meaning_of_the_answer_is_refused(server: Berth, name: str, value: Any) -> None:
    text = problem(chat(server, "one", **{name: value}), 400, name, "unsupported_parameter")
    assert f"does not take {name!r}" in text


def test_the_parts_of_a_text_are_joined_where_text_is_wanted(server: Berth) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    for model in ("Chat", "AsyncChat"):
        body = {"model": model, "messages": [{"role": "user", "content": parts}]}
        assert server.post("/v1/chat/completions", body).json["choices"][0]["message"]["content"].startswith("one")
    picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    body = {"model": "Chat", "messages": [{"role": "user", "content": picture}]}
    assert "content" in problem(server.post("/v1/chat/completions", body), 400, "messages")


@pytest.mark.parametrize("messages", [None, [], "hello", [1], [{"content": "no role"}]])
def test_what_is_no_conversation_is_refused(server: Berth, messages: Any) -> None:
    problem(server.post("/v1/chat/completions", {"model": "Chat", "messages": messages}), 400, "messages")


# -- completions ------------------------------------------------------------------------------------------------------


def test_a_prompt_is_completed(server: Berth) -> None:
    answer = complete(server, "abc def", max_tokens=4).json
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": "fed ", "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}


def test_several_prompts_have_a_choice_each(server: Berth) -> None:
    answer = complete(server, ["ab", "cd ef"]).json
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "ba"), (1, "fe dc")]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    found = [chunk["choices"][0] for chunk in chunks(complete(server, ["ab", "cd"], stream=True))]
    assert [(item["index"], item["text"], item["finish_reason"]) for item in found] == [
        (0, "ba", None),
        (0, "", "stop"),
        (1, "dc", None),
        (1, "", "stop"),
    ]


def test_a_completion_is_streamed(server: Berth) -> None:
    answer = complete(server, "abc", "CompleteStream", stream=True, stop=["c"])
    found = [chunk["choices"][0] for chunk in chunks(answer)]
    assert [(item["text"], item["finish_reason"]) for item in found] == [("a", None), ("b", None), ("", "stop")]
    assert chunks(complete(server, "", "CompleteStream", stream=True))[-1]["choices"][0]["finish_reason"] == "stop"
    two = problem(complete(server, ["a", "b"], "CompleteStream", stream=True), 400, "prompt")
    assert "one at a time" in two


@pytest.mark.parametrize("prompt", [None, [], 3, [1, 2], [[1, 2]]])
def test_what_is_no_prompt_is_refused(server: Berth, prompt: Any) -> None:
    problem(complete(server, prompt), 400, "prompt")


@pytest.mark.parametrize(("name", "value"), [("echo", True), ("suffix", "x"), ("best_of", 2), ("logprobs", 0)])
def test_what_a_completion_cannot_do_is_refused(server: Berth, name: str, value: Any) -> None:
    problem(complete(server, "a", **{name: value}), 400, name, "unsupported_parameter")


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_generate_says_so(server: Berth) -> None:
    for model in ("Shout", "double", "Complete"):
        text = problem(chat(server, "a", model), 400, "model", "unsupported_model")
        assert f"{model!r} cannot chat" in text
    assert "cannot complete" in problem(complete(server, "a", "Chat"), 400, "model", "unsupported_model")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions", "/v1/completions"])
def test_an_unknown_model_is_404(server: Berth, path: str) -> None:
    for name, named in (("nothing", "'nothing'"), ("Chat/versions/9", "'9'"), ("Chat/more", "'Chat/more'")):
        assert named in problem(server.post(path, {"model": name}), 404, "model", "model_not_found")
    problem(server.post(path, {}), 400, "model")


def test_the_shape_of_errors_is_openais_on_every_route_but_that_of_models(server: Berth) -> None:
    assert "/v1/responses" in problem(server.post("/v1/responses", {}), 404)
    assert "/v1/" in problem(server.get("/v1/"), 404)
    assert "POST" in problem(server.get("/v1/embeddings"), 405)
    assert "JSON" in problem(server.post("/v1/chat/completions", b"{"), 400)
    assert "object" in problem(server.post("/v1/chat/completions", b"[]"), 400)
    assert problem(server.post("/v1/embeddings", b"x" * 100_001), 413, None, "request_too_large")
    assert isinstance(server.get("/v1/models/nothing").json["error"], str)


def test_failures_of_the_model_have_openais_shape(server: Berth) -> None:
    assert "not this one" in problem(chat(server, "refuse"), 400)
    assert "not this one" in problem(chat(server, "refuse", stream=True), 400)
    for stream in (False, True):
        assert "secret" not in problem(chat(server, "break", stream=stream), 500)
    assert "error id" in problem(complete(server, "a", "Wrong"), 500)
    assert "error id" in problem(complete(server, "a", "Wrong", stream=True), 500)
    problem(chat(server, "wait", "AsyncChat", 0.3), 504, None, "timeout")


@pytest.mark.parametrize(
    ("model", "text", "timeout", "code"), [("Chat", "one break", 30.0, None), ("AsyncChat", "one wait", 2.0, "timeout")]
)
def test_a_stream_that_breaks_off_ends_with_an_error_and_no_done(
    server: Berth, model: str, text: str, timeout: float, code: str | None
) -> None:
    answer = chat(server, text, model, timeout, stream=True)
    assert answer.status == 200
    last = answer.body.decode().removesuffix("\n\n").split("\n\n")[-1]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", code)
    assert "secret" not in error["message"]


def test_a_full_queue_has_openais_shape_and_says_when_to_come_back() -> None:
    with serving(PREDICTOR="models_faces:Chat", MODEL_NAME="Chat", MAX_QUEUE="1") as server:
        slow = threading.Thread(target=chat, args=(server, "wait"))
        slow.start()
        server.wait_for_pending("Chat", 1)
        full = chat(server, "one")
        assert "queue is full" in problem(full, 503, None, "overloaded")
        assert int(full.headers["Retry-After"]) >= 1
        slow.join()


def test_the_models_are_listed_for_openais_clients(server: Berth) -> None:
    listed = server.get("/v1/models").json
    assert listed["object"] == "list"
    assert [item["id"] for item in listed["data"]][:2] == ["Embed", "EmbedAll"]
    one = server.get("/v1/models/team/chat%20it").json
    assert (one["id"], one["object"], one["owned_by"]) == (SLASHED, "model", "berth")
    assert isinstance(one["created"], int)
