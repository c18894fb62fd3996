import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from simulator.surfaces import responses
from simulator.surfaces.answers import PROMPT_FILTERED, Answer, Event, FinishReason, ToolCall
from simulator.surfaces.asks import InvalidRequestError
from tests.wire import LAST_CHUNK, chunk, reply, sends, serving, stream_head

FIXTURES = Path(__file__).parents[1].parent / "shared" / "fixtures"
RECORDED = sorted(path.name for path in (FIXTURES / "sse").glob("*_responses_*.sse"))
# The first with today's keys in the events of the middle; its own response objects are three keys short of today's.
JUNE = [name for name in RECORDED if name.startswith(("060", "063"))]
AUGUST = "responses-2026-08"
CREATED = 1_787_150_105
ID = "resp_082ac2a584945d9a016a85bf1998b48196a37c570bfff7c4ab"

Fields = dict[str, Any]
ANY_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def ask(**fields: Any) -> responses.Ask:
    return responses.read({"model": "gpt-5-nano", "input": "What is 2 + 2?", **fields})


def answer(*pieces: str, finish_reason: FinishReason = "stop", **more: Any) -> Answer:
    return Answer(CREATED, "gpt-5-nano-2025-08-07", pieces, finish_reason, 18, **more)


def streamed(given: Answer, asked: responses.Ask, seed: int = 0) -> list[Event]:
    return list(responses.events(given, asked, ID, random.Random(seed)))


def data(events: Sequence[Event]) -> list[Fields]:
    return [json.loads(line) for event in events for line in data_lines(event.data.decode())]


def data_lines(text: str) -> Iterator[str]:
    return (line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: "))


def whole(given: Answer, asked: responses.Ask) -> Fields:
    parsed: Fields = json.loads(responses.whole(given, asked, ID))
    return parsed


@cache
def recorded(name: str) -> list[Fields]:
    """A recording's events; of the newest the deltas and what leads to them were not kept."""
    if name != AUGUST:
        return [json.loads(line) for line in data_lines((FIXTURES / "sse" / name).read_text(encoding="utf-8"))]
    path = FIXTURES / "sse_events.jsonl"
    if not path.exists():
        pytest.skip("the recordings are not here")
    events = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [json.loads(line) for event in events if event["id"] == AUGUST for line in data_lines(event["raw"])]


def again(events: list[Fields]) -> list[Event]:
    """What the simulator makes of the ask and the answer that a recording shows."""
    last = events[-1]["response"]
    deltas = {
        item: tuple(event["delta"] for event in deltas)
        for item, deltas in groupby((event for event in events if "delta" in event), key=lambda one: one["item_id"])
    }
    pieces: tuple[str, ...] = ()
    calls, encrypted = [], False
    for item in last["output"]:
        if item["type"] == "message":
            pieces = deltas.get(item["id"], (item["content"][0]["text"],))
        elif item["type"] == "function_call":
            calls.append(ToolCall(item["call_id"], item["name"], deltas[item["id"]]))
        else:
            encrypted = "encrypted_content" in item
    names = ("model", "max_output_tokens", "store", "tools", "tool_choice")
    fields = {"input": "?", **{name: last[name] for name in names}}
    asked = responses.read({**fields, "include": ["reasoning.encrypted_content"]} if encrypted else fields)
    details = last["usage"]["output_tokens_details"]
    # One recording has a reasoning item of no tokens.
    thought = details["reasoning_tokens"] or sum(item["type"] == "reasoning" for item in last["output"])
    reason: FinishReason = "length" if last["status"] == "incomplete" else "stop"
    given = Answer(last["created_at"], "", pieces, reason, last["usage"]["input_tokens"], 0, thought, calls)
    return list(responses.events(given, asked, last["id"], random.Random(1), seconds=1.5))


def kinds(events: list[Fields]) -> list[str]:
    return [event["type"] for event in events]


def shape(value: Any) -> Any:
    """The names and their order, at every depth, and the scalars' types."""
    if isinstance(value, dict):
        return [(name, shape(inner)) for name, inner in value.items()]
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value).__name__


def without_chance(value: Any) -> Any:
    """Ids and padding as their lengths, what is sealed not at all; names in their order."""
    if isinstance(value, list):
        return [without_chance(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    chance = ("id", "item_id", "obfuscation")
    return [
        (name, len(inner) if name in chance else without_chance(inner))
        for name, inner in value.items()
        if name != "encrypted_content"
    ]


@pytest.mark.parametrize("name", RECORDED)
def test_events_come_in_the_recorded_order(name: str) -> None:
    assert kinds(data(again(recorded(name)))) == kinds(recorded(name))


@pytest.mark.parametrize("name", [*JUNE, AUGUST])
def test_items_parts_and_deltas_are_the_recorded_ones(name: str) -> None:
    ours = data(again(recorded(name)))
    numbered = [event for event in recorded(name) if "response" not in event]
    assert numbered
    for event in numbered:
        assert without_chance(ours[event["sequence_number"]]) == without_chance(event)


def test_a_response_has_the_recorded_names_in_their_order() -> None:
    ours = data(again(recorded(AUGUST)))
    for event in recorded(AUGUST):
        if "response" in event:
            assert shape(ours[event["sequence_number"]]) == shape(event)


def test_a_response_repeats_what_was_asked_and_answered_as_recorded() -> None:
    [*_, last] = recorded(AUGUST)
    ours = data(again(recorded(AUGUST)))[last["sequence_number"]]["response"]
    theirs = last["response"]
    differing = {name for name in theirs if without_chance(ours[name]) != without_chance(theirs[name])}
    # How long the prompt and the thought were is not recorded; the answer's tokens are not all visible ones.
    assert differing <= {"id", "content_filters", "usage"}
    assert [one["source_type"] for one in ours["content_filters"]] == ["prompt", "completion"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PIECES = st.lists(TEXT, max_size=6)
CALLS = st.lists(st.builds(ToolCall, st.just("call_1"), st.just("look_up"), PIECES), max_size=2)
ANSWERS = st.builds(
    Answer,
    created=st.just(CREATED),
    model=st.just("gpt-5-nano-2025-08-07"),
    pieces=PIECES,
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
    prompt_tokens=st.integers(0, 1000),
    cached_tokens=st.integers(0, 100),
    reasoning_tokens=st.integers(0, 9),
    tool_calls=CALLS,
)


@given(ANSWERS)
def test_sequence_numbers_have_no_gap_and_each_event_has_its_own(given_answer: Answer) -> None:
    events = streamed(given_answer, ask(stream=True))
    for number, event in enumerate(events):
        [one] = data([event])
        assert one["sequence_number"] == number
        assert event.data.startswith(f"event: {one['type']}\ndata: ".encode())
        assert event.data.endswith(b"\n\n")


@given(ANSWERS)
def test_deltas_join_to_what_was_said(given_answer: Answer) -> None:
    events = data(streamed(given_answer, ask(stream=True)))
    joined: dict[str, str] = {}
    for event in events:
        if "delta" in event:
            joined[event["item_id"]] = joined.get(event["item_id"], "") + event["delta"]
    said = {item["id"]: item for item in events[-1]["response"]["output"]}
    texts = [joined.get(one, "") for one, item in said.items() if item["type"] == "message"]
    assert "".join(texts) == "".join(given_answer.pieces)
    arguments = [joined.get(one, "") for one, item in said.items() if item["type"] == "function_call"]
    assert arguments == ["".join(call.arguments) for call in given_answer.tool_calls]


@given(ANSWERS)
def test_each_visible_token_has_one_delta_and_events_go_out_in_the_order_of_tokens(given_answer: Answer) -> None:
    events = streamed(given_answer, ask(stream=True))
    tokens = [event.token for event in events]
    assert tokens == sorted(tokens)
    assert tokens[:2] == [PROMPT_FILTERED, PROMPT_FILTERED]
    assert tokens[-1] == max(given_answer.sent_tokens - 1, PROMPT_FILTERED)
    deltas = [event.token for event in events if b".delta\n" in event.data]
    assert deltas == list(range(given_answer.reasoning_tokens, given_answer.sent_tokens))


@given(ANSWERS)
def test_a_stream_ends_with_the_response_that_a_whole_reply_is(given_answer: Answer) -> None:
    for fields in ({}, {"include": ["reasoning.encrypted_content"]}):
        asked = ask(**fields)
        assert data(streamed(given_answer, asked))[-1]["response"] == whole(given_answer, asked)


@given(ANSWERS)
def test_the_official_models_accept_every_event_and_every_whole_reply(given_answer: Answer) -> None:
    asked = ask(tools=[{"type": "function", "name": "look_up", "parameters": {"type": "object"}}])
    for event in data(streamed(given_answer, asked)):
        assert ANY_EVENT.validate_python(event).type == event["type"]
    Response.model_validate(whole(given_answer, asked))


@given(PIECES)
def test_a_delta_is_padded_to_the_next_multiple_of_16_characters(pieces: list[str]) -> None:
    deltas = [event for event in data(streamed(answer(*pieces), ask())) if "delta" in event]
    for event in deltas:
        padded = len(event["delta"]) + len(event["obfuscation"])
        assert padded % 16 == 0 and len(event["obfuscation"]) >= 1
    plain = data(streamed(answer(*pieces), ask(stream_options={"include_obfuscation": False})))
    assert not any("obfuscation" in event for event in plain)


@given(ANSWERS)
def test_a_whole_reply_is_ascii_and_says_the_same(given_answer: Answer) -> None:
    body = responses.whole(given_answer, ask(instructions="Réponds en français 🙂"), ID)
    assert body.isascii()
    parsed = json.loads(body)
    assert body.decode() == json.dumps(parsed, indent=2).replace(r"\u007f", "\x7f")
    assert parsed["instructions"] == "Réponds en français 🙂"
    assert Response.model_validate(parsed).output_text == "".join(given_answer.pieces)


def test_the_official_client_reads_a_stream() -> None:
    events = streamed(answer("The", " answer", " is", " 4", ".", reasoning_tokens=64), ask(stream=True))
    pieces = [stream_head(), *(chunk(event.data) for event in events), LAST_CHUNK]
    with (
        serving(sends(*pieces)) as server,
        client(server.url) as official,
        official.responses.stream(model="gpt-5-nano", input="What is 2 + 2?") as stream,
    ):
        seen = [event.type for event in stream]
        final = stream.get_final_response()
    assert seen.count("response.output_text.delta") == 5
    assert final.output_text == "The answer is 4."
    assert final.usage is not None
    assert (final.usage.input_tokens, final.usage.output_tokens) == (18, 69)
    assert final.usage.output_tokens_details.reasoning_tokens == 64


def test_the_official_client_reads_a_whole_reply() -> None:
    call = ToolCall("call_1", "look_up", ('{"', "city", '":"', "Rome", '"}'))
    body = responses.whole(answer(finish_reason="tool_calls", tool_calls=[call]), ask(), ID)
    with serving(sends(reply(body))) as server, client(server.url) as official:
        response = official.responses.create(model="gpt-5-nano", input="What is 2 + 2?")
    [item] = response.output
    assert item.type == "function_call"
    assert (item.name, item.arguments, item.status) == ("look_up", '{"city":"Rome"}', "completed")


def test_the_official_client_raises_what_breaks_a_stream_off() -> None:
    asked = ask(stream=True)
    begun = streamed(answer("4"), asked)[:2]
    message = "Your requests to gpt-5-nano for gpt-5-nano in West Europe have exceeded rate limit."
    broken = responses.failed(
        asked, ID, CREATED, len(begun), type="too_many_requests", code="rate_limit_exceeded", message=message
    )
    pieces = [stream_head(), *(chunk(event.data) for event in begun), chunk(broken), LAST_CHUNK]
    with serving(sends(*pieces)) as server, client(server.url) as official:
        stream = official.responses.create(model="gpt-5-nano", input="What is 2 + 2?", stream=True)
        with pytest.raises(openai.APIError, match="have exceeded rate limit") as raised:
            list(stream)
    assert raised.value.code == "rate_limit_exceeded"


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/openai/v1/", api_key="any", max_retries=0)


def test_a_stream_that_broke_off_says_so_twice() -> None:
    broken = responses.failed(
        ask(), ID, CREATED, 7, type="server_error", code="server_error", message="The server had an error."
    )
    error, failed = data([Event(0, broken)])
    assert [error["sequence_number"], failed["sequence_number"]] == [7, 8]
    assert error["error"] == {
        "type": "server_error",
        "code": "server_error",
        "message": "The server had an error.",
        "param": None,
    }
    assert ANY_EVENT.validate_python(failed).response.error.message == "The server had an error."
    assert (failed["response"]["id"], failed["response"]["status"]) == (ID, "failed")


def test_an_answer_that_a_limit_ended_is_incomplete() -> None:
    cut = answer("The", " answer", finish_reason="length")
    *_, item, last = data(streamed(cut, ask(max_output_tokens=16)))
    assert item["item"]["status"] == "incomplete"
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["completed_at"] is None


def test_a_blocked_answer_is_incomplete_and_its_filter_says_blocked() -> None:
    response = whole(answer("The", finish_reason="content_filter"), ask())
    assert response["incomplete_details"] == {"reason": "content_filter"}
    assert [one["blocked"] for one in response["content_filters"]] == [False, True]


def test_only_models_that_reason_have_an_effort() -> None:
    efforts = {
        model: whole(answer("4"), ask(model=model))["reasoning"]["effort"]
        for model in ("gpt-5-nano", "o4-mini", "gpt-5.1-codex-mini", "codex-mini", "gpt-4o", "gpt-4.1", "gpt-5-chat")
    }
    assert efforts == {
        **dict.fromkeys(("gpt-5-nano", "o4-mini", "gpt-5.1-codex-mini", "codex-mini"), "medium"),
        **dict.fromkeys(("gpt-4o", "gpt-4.1", "gpt-5-chat")),
    }


def test_a_new_id_has_the_second_in_it_and_the_items_share_its_first_half() -> None:
    new = responses.new_id(CREATED, random.Random(3))
    assert len(new) == len(ID)
    assert new[21:31] == ID[21:31] == "016a85bf19"
    [event] = [one for one in responses.events(answer("4"), ask(), new, random.Random(1)) if b"item.done" in one.data]
    [item] = data([event])
    assert item["item"]["id"].startswith(f"msg_{new[5:31]}")


def test_a_response_completes_as_many_seconds_after_its_creation_as_it_took() -> None:
    assert json.loads(responses.whole(answer("4"), ask(), ID, seconds=2.7))["completed_at"] == CREATED + 2


def test_the_texts_to_count_are_all_that_the_model_reads() -> None:
    asked = ask(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "Where?"},
            {"role": "user", "content": [{"type": "input_text", "text": "Here?"}, {"type": "input_image"}]},
            {"type": "function_call", "name": "look_up", "arguments": '{"city":"Rome"}', "call_id": "call_1"},
            {"type": "function_call_output", "output": "Sunny.", "call_id": "call_1"},
        ],
        tools=[{"type": "function", "name": "look_up"}],
    )
    assert responses.texts(asked) == [
        "Be brief.",
        "Where?",
        "Here?",
        "look_up",
        '{"city":"Rome"}',
        "Sunny.",
        '{"type":"function","name":"look_up"}',
    ]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 4}, "model", "invalid_type"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": 4}, "input", "invalid_type"),
        ({"input": ["Hello"]}, "input[0]", "invalid_type"),
        ({"instructions": ["Hello"]}, "instructions", "invalid_type"),
        ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
        ({"max_output_tokens": True}, "max_output_tokens", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"top_p": -0.1}, "top_p", "decimal_below_min_value"),
        ({"tools": {}}, "tools", "invalid_type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name", "missing_required_parameter"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
        ({"reasoning": "high"}, "reasoning", "invalid_type"),
        ({"messages": []}, "messages", "unsupported_parameter"),
        ({"max_tokens": 100}, "max_tokens", "unsupported_parameter"),
    ],
)
def test_a_refusal_names_the_parameter(fields: Fields, param: str, code: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        ask(**fields)
    assert (raised.value.param, raised.value.code) == (param, code)


def test_an_earlier_response_can_stand_for_the_input() -> None:
    asked = responses.read({"model": "gpt-5-nano", "previous_response_id": ID})
    assert whole(answer("4"), asked)["previous_response_id"] == ID
