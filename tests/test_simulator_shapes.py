import base64
import json
import math
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse, Model

from simulator.surfaces import completions, embeddings, models
from simulator.surfaces.answers import PROMPT_FILTERED, Answer, Event, FinishReason
from simulator.surfaces.asks import InvalidRequestError
from tests.wire import LAST_CHUNK, chunk, reply, sends, serving, stream_head

HEADERS = Path(__file__).parents[1].parent / "shared" / "fixtures" / "real_headers.jsonl"
CREATED = 1_787_150_105
ID = "cmpl-80yXLPWze5qul39qHFOlO1j7VViFv"
SMALL, LARGE, ADA = "text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"

Fields = dict[str, Any]


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/openai/v1/", api_key="any", max_retries=0)


def refusal(read: Callable[[Mapping[str, Any]], object], fields: Fields) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidRequestError) as raised:
        read(fields)
    return raised.value.param, raised.value.code


def embedded(model: str = SMALL, **fields: Any) -> Fields:
    parsed: Fields = json.loads(embeddings.whole(embeddings.read(fields), model, 8))
    return parsed


def vectors(model: str = SMALL, **fields: Any) -> list[tuple[float, ...]]:
    return [
        struct.unpack(f"<{len(packed) // 4}f", packed)
        for one in embedded(model, encoding_format="base64", **fields)["data"]
        for packed in [base64.b64decode(one["embedding"], validate=True)]
    ]


@pytest.mark.parametrize(("model", "size"), [(SMALL, 1536), (LARGE, 3072), (ADA, 1536)])
def test_a_vector_is_as_long_as_its_model_makes_it_and_unit_long(model: str, size: int) -> None:
    [vector] = vectors(model, input="Hello")
    assert len(vector) == size
    assert math.hypot(*vector) == pytest.approx(1, abs=1e-6)


@given(st.integers(1, 1536), st.text(min_size=1))
def test_both_formats_hold_the_same_unit_vector_of_as_many_dimensions_as_asked(size: int, text: str) -> None:
    [packed] = vectors(input=text, dimensions=size)
    [one] = embedded(input=text, dimensions=size)["data"]
    assert len(packed) == size
    assert one["embedding"] == pytest.approx(packed, rel=1e-6)
    assert math.hypot(*one["embedding"]) == pytest.approx(1, abs=1e-6)


def test_a_shortened_vector_is_the_full_one_s_beginning_made_unit_long_again() -> None:
    [full], [short] = vectors(input="Hello"), vectors(input="Hello", dimensions=768)
    norm = math.hypot(*full[:768])
    assert short == pytest.approx([number / norm for number in full[:768]], rel=1e-5)


def test_equal_inputs_have_equal_vectors_and_others_are_far_apart() -> None:
    first, second, third, tokens = vectors(input=["Hello", "Hello", "Hello!"]) + vectors(input=[9906])
    assert first == second
    assert abs(sum(map(math.prod, zip(first, third, strict=True)))) < 0.2
    assert tokens not in (first, third)


def test_replies_are_byte_for_byte_as_long_as_the_recorded_ones() -> None:
    if not HEADERS.exists():
        pytest.skip("the recordings are not here")
    recorded = {
        (one["model"], int(one["headers"]["content-length"]))
        for one in map(json.loads, HEADERS.read_text(encoding="utf-8").splitlines())
        if one["endpoint"] == "embeddings" and one["status"] == 200 and "content-length" in one["headers"]
    }
    in_base64 = {(model, length) for model, length in recorded if model == "ada" or "embedding-3" in model}
    # The ones of floats are as long as their digits make them.
    in_base64 = {(model, length) for model, length in in_base64 if length < 20_000}
    assert in_base64
    asked = embeddings.read({"input": "Hello", "encoding_format": "base64"})
    assert {(model, len(embeddings.whole(asked, model, 8))) for model, _ in in_base64} == in_base64


def test_the_official_client_reads_embeddings() -> None:
    asked = {"input": ["Hello", "there"], "encoding_format": "base64"}
    body = embeddings.whole(embeddings.read(asked), LARGE, 2)
    with serving(sends(reply(body))) as server, client(server.url) as official:
        read = official.embeddings.create(model="my-embeddings", input=["Hello", "there"])
    assert [one.index for one in read.data] == [0, 1]
    assert [tuple(one.embedding) for one in read.data] == vectors(LARGE, input=["Hello", "there"])
    assert (read.model, read.usage.prompt_tokens, read.usage.total_tokens) == (LARGE, 2, 2)


def test_the_official_model_accepts_embeddings_of_floats() -> None:
    parsed = CreateEmbeddingResponse.model_validate(embedded(input="Hello", encoding_format="float"))
    assert len(parsed.data[0].embedding) == 1536


def test_tokens_are_one_input_and_need_no_counting() -> None:
    asked = embeddings.read({"input": [[1, 2, 3], [4]]})
    assert (embeddings.texts(asked), embeddings.given_tokens(asked)) == ([], 4)
    assert embeddings.read({"input": [1, 2, 3]}).inputs == [[1, 2, 3]]
    assert embeddings.texts(embeddings.read({"input": ["a", "b"]})) == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", None),
        ({"input": []}, "input", None),
        ({"input": ["a", ""]}, "input", None),
        ({"input": ["a", 1]}, "input", None),
        ({"input": ["a"] * 2049}, "input", "array_above_max_length"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"input": "a", "dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"input": "a", "dimensions": "many"}, "dimensions", "invalid_type"),
        ({"input": "a", "model": 3}, "model", "invalid_type"),
    ],
)
def test_a_refusal_of_embeddings_names_the_parameter(fields: Fields, param: str, code: str | None) -> None:
    assert refusal(embeddings.read, fields) == (param, code)


@pytest.mark.parametrize(("model", "size"), [(ADA, 512), (SMALL, 1537), (LARGE, 3073)])
def test_a_model_has_no_other_dimensions_than_its_own(model: str, size: int) -> None:
    asked = embeddings.read({"input": "a", "dimensions": size})
    assert refusal(lambda _: embeddings.dimensions(asked, model), {}) == ("dimensions", None)


def answer(*pieces: str, finish_reason: FinishReason = "stop", prompt_tokens: int = 5) -> Answer:
    return Answer(CREATED, "gpt-35-turbo-instruct", pieces, finish_reason, prompt_tokens)


def chunks(events: list[Event]) -> list[Fields]:
    assert events[-1].data == b"data: [DONE]\n\n"
    assert all(event.data.startswith(b"data: ") and event.data.endswith(b"\n\n") for event in events)
    return [json.loads(event.data[6:]) for event in events[:-1]]


def test_a_completion_has_the_recorded_names_in_their_order() -> None:
    body = json.loads(completions.whole([answer("Hi", "!")], completions.read({"prompt": "Say hi"}), ID))
    assert list(body) == ["id", "object", "created", "model", "prompt_filter_results", "choices", "usage"]
    [choice] = body["choices"]
    assert list(choice) == ["text", "index", "finish_reason", "logprobs", "content_filter_results"]
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


ANSWERS = st.builds(
    answer,
    finish_reason=st.sampled_from(["stop", "length", "content_filter"]),
    prompt_tokens=st.integers(0, 100),
).flatmap(lambda one: st.lists(st.text(max_size=5), max_size=5).map(lambda pieces: one._replace(pieces=pieces)))


@given(st.integers(1, 2), st.integers(1, 2), st.data())
def test_each_choice_s_texts_join_to_its_answer_and_one_of_them_ends_it(prompts: int, n: int, drawn: Any) -> None:
    answers = drawn.draw(st.lists(ANSWERS, min_size=prompts * n, max_size=prompts * n))
    asked = completions.read({"prompt": ["Hi"] * prompts, "n": n, "stream": True})
    assert asked.choices == len(answers)
    events = list(completions.events(answers, asked, ID))
    tokens = [event.token for event in events]
    assert tokens[0] == PROMPT_FILTERED and tokens == sorted(tokens)
    choices = [choice for one in chunks(events) for choice in one["choices"]]
    for index, one in enumerate(answers):
        mine = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in mine) == "".join(one.pieces)
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + [one.finish_reason]
    body = Completion.model_validate_json(completions.whole(answers, asked, ID))
    assert [choice.text for choice in body.choices] == ["".join(one.pieces) for one in answers]


def test_usage_is_in_a_last_chunk_of_its_own_and_null_before_where_it_was_asked_for() -> None:
    asked = completions.read({"prompt": ["a", "b"], "n": 2, "stream_options": {"include_usage": True}})
    *others, last = chunks(list(completions.events([answer("x", "y", prompt_tokens=7)] * 4, asked, ID)))
    assert all(one["usage"] is None for one in others)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 14, "completion_tokens": 8, "total_tokens": 22}
    without = completions.read({"prompt": "a"})
    assert not any("usage" in one for one in chunks(list(completions.events([answer("x")], without, ID))))


def test_the_first_chunk_has_a_result_for_each_prompt_and_no_choice() -> None:
    first, *_ = chunks(list(completions.events([answer("x")] * 2, completions.read({"prompt": ["a", "b"]}), ID)))
    assert first["choices"] == [] and first["id"] == ""
    assert [one["prompt_index"] for one in first["prompt_filter_results"]] == [0, 1]


def test_a_limit_s_reason_comes_with_the_last_token_and_a_stop_s_after_it() -> None:
    asked = completions.read({"prompt": "a"})
    cut = chunks(list(completions.events([answer("x", "y", finish_reason="length")], asked, ID)))
    assert [choice["text"] for one in cut for choice in one["choices"]] == ["x", "y"]
    stopped = chunks(list(completions.events([answer("x", "y")], asked, ID)))
    assert [choice["text"] for one in stopped for choice in one["choices"]] == ["x", "y", ""]


def test_the_official_client_reads_a_stream_of_completions() -> None:
    asked = completions.read({"prompt": "Say hi", "stream": True, "stream_options": {"include_usage": True}})
    events = completions.events([answer("Hi", " there", "!")], asked, ID)
    pieces = [stream_head(), *(chunk(event.data) for event in events), LAST_CHUNK]
    with serving(sends(*pieces)) as server, client(server.url) as official:
        read = list(official.completions.create(model="instruct", prompt="Say hi", stream=True))
    assert "".join(choice.text for one in read for choice in one.choices) == "Hi there!"
    assert read[-1].usage is not None and read[-1].usage.total_tokens == 8


def test_sixteen_tokens_are_what_a_completion_has_where_nobody_says() -> None:
    assert completions.read({}).max_tokens == 16
    assert completions.read({"max_tokens": 0}).max_tokens == 0


def test_prompts_of_tokens_need_no_counting() -> None:
    asked = completions.read({"prompt": [[1, 2], [3]]})
    assert (completions.texts(asked), completions.given_tokens(asked), asked.choices) == ([], 3, 2)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": 4}, "prompt", "invalid_type"),
        ({"prompt": ["a", 4]}, "prompt", "invalid_type"),
        ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"temperature": 3}, "temperature", "decimal_above_max_value"),
        ({"stream_options": True}, "stream_options", "invalid_type"),
    ],
)
def test_a_refusal_of_a_completion_names_the_parameter(fields: Fields, param: str, code: str) -> None:
    assert refusal(completions.read, {"prompt": "a", **fields}) == (param, code)


def test_a_model_of_v1_is_openai_s() -> None:
    body = models.one("gpt-4.1-mini-2025-04-14", v1=True)
    with serving(sends(reply(body))) as server, client(server.url) as official:
        model = official.models.retrieve("gpt-4.1-mini-2025-04-14")
    assert Model.model_validate(json.loads(body)) == model
    assert (model.id, model.owned_by) == ("gpt-4.1-mini-2025-04-14", "openai")
    assert datetime.fromtimestamp(model.created, UTC).date().isoformat() == "2025-04-14"


def test_a_dated_list_says_what_each_model_can_do_and_until_when() -> None:
    names = ["gpt-4o-2024-11-20", "text-embedding-3-large", "gpt-35-turbo-instruct-0914"]
    body = json.loads(models.listed(names, v1=False))
    assert body["object"] == "list"
    able = {
        one["id"]: [name for name, can in one["capabilities"].items() if can and name != "inference"]
        for one in body["data"]
    }
    assert able == dict(zip(names, [["chat_completion"], ["embeddings"], ["completion"]], strict=True))
    assert list(body["data"][0]) == [
        "status",
        "capabilities",
        "lifecycle_status",
        "deprecation",
        "id",
        "created_at",
        "object",
    ]
    assert body["data"][0]["deprecation"]["inference"] > body["data"][0]["created_at"]


def test_the_official_client_reads_the_list() -> None:
    with serving(sends(reply(models.listed(["a", "b"], v1=True)))) as server, client(server.url) as official:
        assert [model.id for model in official.models.list()] == ["a", "b"]
