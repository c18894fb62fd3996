"""The surfaces through the official SDK, and what a deployment's settings do to them."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseTextDeltaEvent

from tests.simulators import AT_ONCE, Simulated, simulating

HELLO: Any = [{"role": "user", "content": "Hello there"}]
WEATHER = {
    "name": "weather",
    "description": "The weather somewhere",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}
GPT = 'model = "gpt-4.1-mini-2025-04-14"\n'
CONFIG = f"""
[resources.one]
region = "East US 2"
{AT_ONCE.replace("between_tokens = { median = 0.0 }", "between_tokens = { median = 0.002 }")}
[resources.one.deployments.chat]
{GPT}
[resources.one.deployments.reasoning]
model = "gpt-5-nano-2025-08-07"
generation = "2026-08"
reasoning_tokens = 64
[resources.one.deployments.asynchronous]
{GPT}content_filter = "asynchronous"
[resources.one.deployments.bursts]
{GPT}burst = 0.05
[resources.one.deployments.embeddings]
model = "text-embedding-3-small"
[resources.one.deployments.provisioned]
{GPT}ptu = 15
[resources.one.deployments.spilling]
{GPT}ptu = 15
spillover_to = "chat"
[resources.one.deployments.reduced]
{GPT}reductions = [{{ after = 0, until = 3600, share = 0.5 }}]
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    with simulating(tmp_path_factory.mktemp("surfaces"), CONFIG) as running:
        yield running


@pytest.fixture
def client(simulated: Simulated) -> openai.OpenAI:
    target = simulated.target("one")
    return openai.OpenAI(base_url=f"{target.endpoint}/openai/v1/", api_key=target.api_key, max_retries=0)


def dated(simulated: Simulated) -> openai.AzureOpenAI:
    target = simulated.target("one")
    return openai.AzureOpenAI(
        azure_endpoint=target.endpoint, api_key=target.api_key, api_version=target.api_version, max_retries=0
    )


def test_a_tool_is_called_with_arguments_that_fit_and_not_again_once_it_has_answered(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    reply = client.chat.completions.create(model="chat", messages=HELLO, tools=tools)
    calls = reply.choices[0].message.tool_calls
    assert reply.choices[0].finish_reason == "tool_calls" and calls is not None
    (call,) = calls
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Paris", "days": 1}
    answered = [*HELLO, reply.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "Rain"}]
    reply = client.chat.completions.create(model="chat", messages=answered, tools=tools)
    assert reply.choices[0].finish_reason == "stop"


def test_the_sdks_streaming_helper_puts_a_tools_call_together(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    with client.chat.completions.stream(model="chat", messages=HELLO, tools=tools) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert json.loads(call.function.arguments) == {"city": "Paris", "days": 1}


def test_a_json_answer_is_json(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="chat", messages=HELLO, max_tokens=30, response_format={"type": "json_object"}
    )
    assert json.loads(reply.choices[0].message.content or "") and reply.usage is not None
    assert reply.usage.completion_tokens == 30


def test_a_response_is_complete_or_says_why_it_is_not(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="chat", input="Hello", instructions="Be brief")
    assert whole.status == "completed" and len(whole.output_text.split()) == 200
    cut = client.responses.create(model="chat", input="Hello", max_output_tokens=16)
    assert cut.status == "incomplete" and cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens" and cut.usage is not None
    assert (cut.usage.output_tokens, cut.model) == (16, "chat")


def test_the_events_of_a_response_are_numbered_and_add_up(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="reasoning", input="Hello", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent))
    last = events[-1]
    assert last.type == "response.completed" and last.response.output_text == text
    assert last.response.usage is not None and last.response.usage.output_tokens_details.reasoning_tokens > 0
    assert [item.type for item in last.response.output] == ["reasoning", "message"]


def test_a_response_calls_a_function(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "strict": False, **WEATHER}]
    with client.responses.stream(model="chat", input="Hello", tools=tools) as stream:
        (call,) = stream.get_final_response().output
    assert call.type == "function_call" and json.loads(call.arguments) == {"city": "Paris", "days": 1}


def test_the_dated_paths_serve_responses_embeddings_and_completions_too(simulated: Simulated) -> None:
    client = dated(simulated)
    assert client.completions.create(model="chat", prompt="Once", max_tokens=3).choices[0].finish_reason == "length"
    assert client.embeddings.create(model="embeddings", input="Hello").usage.prompt_tokens == 1
    streamed = client.completions.create(model="chat", prompt="Once", max_tokens=3, stream=True)
    assert len("".join(chunk.choices[0].text for chunk in streamed if chunk.choices).split()) == 3


def test_an_embedding_is_the_same_in_both_formats_and_of_unit_length(client: openai.OpenAI) -> None:
    # The SDK asks for base64 where its caller names no format.
    packed = client.embeddings.create(model="embeddings", input=["Hello", "there"])
    plain = client.embeddings.create(model="embeddings", input=["Hello", "there"], encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6) and len(one.embedding) == 1536
        assert sum(value * value for value in one.embedding) == pytest.approx(1, abs=1e-5)
    assert len(client.embeddings.create(model="embeddings", input="x", dimensions=64).data[0].embedding) == 64
    assert client.embeddings.create(model="embeddings", input=[1, 2, 3]).usage.prompt_tokens == 3


def test_the_models_that_are_deployed_are_listed(client: openai.OpenAI, simulated: Simulated) -> None:
    names = ["gpt-4.1-mini-2025-04-14", "gpt-5-nano-2025-08-07", "text-embedding-3-small"]
    assert [model.id for model in client.models.list()] == names
    assert client.models.retrieve(names[0]).id == names[0]
    assert [model.id for model in dated(simulated).models.list()] == names
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gone")


@pytest.mark.parametrize(
    ("surface", "fields", "param"),
    [
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": HELLO, "max_tokens": "many"}, "max_tokens"),
        ("responses", {}, "input"),
        ("responses", {"input": 5}, "input"),
        ("completions", {"prompt": 5}, "prompt"),
        ("embeddings", {"input": []}, "input"),
        ("embeddings", {"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ("embeddings", {"input": "x", "dimensions": 0}, "dimensions"),
    ],
)
def test_a_request_that_is_wrong_is_answered_400_with_the_field_at_fault(
    client: openai.OpenAI, surface: str, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post(f"/{surface}", body={"model": "chat", **fields}, cast_to=object)
    assert refused.value.param == param


def test_the_asynchronous_client_streams_many_at_once(simulated: Simulated) -> None:
    target = simulated.target("one")

    async def ask(client: openai.AsyncOpenAI) -> int:
        stream = await client.chat.completions.create(model="chat", messages=HELLO, max_tokens=9, stream=True)
        return len([chunk async for chunk in stream if chunk.choices and chunk.choices[0].delta.content])

    async def ask_all() -> list[int]:
        async with openai.AsyncOpenAI(base_url=f"{target.endpoint}/openai/v1/", api_key=target.api_key) as client:
            return await asyncio.gather(*(ask(client) for _ in range(20)))

    assert asyncio.run(ask_all()) == [9] * 20


def test_the_sdk_retries_a_429_until_it_is_answered(tmp_path: Path) -> None:
    with simulating(tmp_path, f"seed = 2\n{CONFIG}", "--fault", "unhinted_429:60%") as simulated:
        target = simulated.target("one")
        client = openai.OpenAI(base_url=f"{target.endpoint}/openai/v1/", api_key=target.api_key, max_retries=8)
        client.chat.completions.create(model="chat", messages=HELLO, max_tokens=1)
    statuses = [line["status"] for line in simulated.ledger()]
    assert statuses[-1] == 200 and statuses[:-1] == [429] * (len(statuses) - 1) and len(statuses) > 1


def test_a_reasoning_models_chat_holds_its_headers_until_the_first_visible_token(simulated: Simulated) -> None:
    client = dated(simulated)
    raw = client.chat.completions.with_raw_response.create(model="reasoning", messages=HELLO, stream=True)
    list(raw.parse())
    line = simulated.line_of(raw.headers["apim-request-id"])
    hidden = line["completion_tokens"] - 201
    first_visible = line["arrived"] + line["drawn"]["due_us"][hidden] * 1000
    assert hidden > 0 and line["headers_at"] >= first_visible
    answered = client.responses.with_raw_response.create(model="reasoning", input="Hello", stream=True)
    list(answered.parse())
    line = simulated.line_of(answered.headers["apim-request-id"])
    assert line["headers_at"] < line["arrived"] + line["drawn"]["due_us"][hidden] * 1000


def test_the_asynchronous_filter_reports_on_text_that_was_sent_before(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="asynchronous", messages=HELLO, max_tokens=300, stream=True)
    choices = [chunk.choices[0] for chunk in stream if chunk.choices]
    reports = [choice for choice in choices if choice.delta is None]
    offsets: list[Any] = [report.content_filter_offsets for report in reports]  # type: ignore[attr-defined]
    assert len(reports) >= 3 and choices[-1] in reports
    text = "".join(choice.delta.content or "" for choice in choices if choice.delta is not None)
    assert offsets[-1]["end_offset"] == len(text)


def test_a_filter_that_collects_text_lets_it_out_in_bursts(simulated: Simulated) -> None:
    client = dated(simulated)
    raw = client.chat.completions.with_raw_response.create(model="bursts", messages=HELLO, max_tokens=100, stream=True)
    list(raw.parse())
    due = simulated.line_of(raw.headers["apim-request-id"])["drawn"]["due_us"]
    # 100 tokens 2 ms apart, let out every 50 ms.
    assert len(due) == 100 and 4 <= len(set(due)) <= 6


def test_a_full_provisioned_deployment_refuses_with_its_utilization_and_when_to_come_back(simulated: Simulated) -> None:
    client = dated(simulated)
    first = client.chat.completions.with_raw_response.create(
        model="provisioned", messages=HELLO, max_tokens=100_000, stream=True
    )
    assert first.headers["azure-openai-deployment-utilization"].endswith("%")
    assert "x-ratelimit-remaining-tokens" not in first.headers
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="provisioned", messages=HELLO, max_tokens=1)
    headers = refused.value.response.headers
    assert float(headers["azure-openai-deployment-utilization"].rstrip("%")) > 100
    assert 0 < int(headers["retry-after-ms"]) <= int(headers["retry-after"]) * 1000
    first.http_response.close()


def test_what_a_provisioned_deployment_cannot_take_is_answered_by_the_standard_one(simulated: Simulated) -> None:
    client = dated(simulated)
    first = client.chat.completions.with_raw_response.create(
        model="spilling", messages=HELLO, max_tokens=100_000, stream=True
    )
    assert first.headers["x-ms-is-spilled-over"] == "false"
    second = client.chat.completions.with_raw_response.create(model="spilling", messages=HELLO, max_tokens=1)
    first.http_response.close()
    assert second.headers["x-ms-is-spilled-over"] == "true"
    assert second.headers["x-ms-spillover-from-deployment"] == "spilling"
    assert second.headers["x-ms-deployment-name"] == "chat"
    assert simulated.line_of(second.headers["apim-request-id"])["spilled_from"] == "spilling"


def test_a_reduction_shows_as_a_limit_below_the_configured_one(simulated: Simulated) -> None:
    raw = dated(simulated).chat.completions.with_raw_response.create(model="reduced", messages=HELLO, max_tokens=1)
    assert raw.headers["x-ratelimit-limit-tokens"] == "25000"


def test_a_long_prompt_that_was_there_before_is_cached_in_steps_of_128_tokens(client: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "the of and to in is that for it as " * 160}]
    replies = [client.chat.completions.create(model="chat", messages=long, max_tokens=1) for _ in range(2)]
    used = [reply.usage.prompt_tokens_details.cached_tokens for reply in replies]  # type: ignore[union-attr]
    assert used[0] == 0 and used[1] is not None and used[1] >= 1024 and used[1] % 128 == 0
