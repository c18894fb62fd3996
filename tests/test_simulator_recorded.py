"""What the service was recorded to answer, and which generation of the simulator answers the same."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, NamedTuple

import pytest

from tests.commands import ROOT
from tests.simulators import AT_ONCE, Simulated, simulating
from tests.test_simulator import raw

FIXTURES = ROOT.parent / "shared" / "fixtures"
pytestmark = pytest.mark.skipif(not FIXTURES.exists(), reason="the recordings are not beside this checkout")

GPT = "gpt-4.1-mini-2025-04-14"
DEPLOYMENTS = {
    **{f"gpt-{generation}": GPT for generation in ("2023", "2024", "2025", "2026-02", "2026-03", "2026-06", "2026-08")},
    "deepseek-2025": "DeepSeek-V3.1",
    "grok-2026-06": "grok-4-1-fast-non-reasoning",
    "grok-2026-08": "grok-4-1-fast-non-reasoning",
    "embeddings-2025": "text-embedding-3-large",
    "scarce-2024": GPT,
    "scarce-2025": GPT,
    "scarce-grok-2026-08": "grok-4-1-fast-non-reasoning",
    "filtered-2025": GPT,
}


PLENTY = "tokens_per_minute = 250000\nrequests_per_minute = 6000\n"


class Reproduced(NamedTuple):
    """How a recorded set is had: a request to a deployment. `sorted`: its recorder has sorted the names. `without`:
    names that the recorder has dropped. `only`: what is recorded is part of a set."""

    deployment: str
    surface: str = "chat"
    stream: bool = False
    sorted: bool = False
    without: tuple[str, ...] = ()
    only: bool = False


SETS = {
    "seed-2024-05-chat-nonstream": Reproduced("gpt-2024"),
    "2023-11-completions-nonstream": Reproduced("gpt-2023", "completions"),
    "2024-04-chat-stream": Reproduced("gpt-2024", stream=True),
    "2025-07-chat-stream": Reproduced("gpt-2025", stream=True),
    "2026-02-chat-nonstream": Reproduced("gpt-2026-02"),
    "2026-03-chat-stream": Reproduced("gpt-2026-03", stream=True),
    "2026-06-chat-stream": Reproduced("gpt-2026-06", stream=True),
    "2026-03-404-deployment": Reproduced("gone"),
    "2026-08-responses-v1-stream": Reproduced("gpt-2026-08", "responses", stream=True),
    "2026-08-models-endpoint-nonstream": Reproduced("gpt-2026-08", "foundry"),
    "2026-06-models-endpoint-grok": Reproduced("grok-2026-06", "foundry"),
    "2026-08-429-foundry-models": Reproduced("scarce-grok-2026-08", "foundry"),
    "2026-08-401-key": Reproduced("", "bad key", sorted=True),
    "2025-10-chat-nonstream-http2": Reproduced("gpt-2025", sorted=True),
    "2025-10-chat-nonstream-dd": Reproduced("gpt-2025"),
    "2025-08-401-ddjs": Reproduced("", "bad key"),
    "2025-11-chat-nonstream": Reproduced("gpt-2025", sorted=True, without=("content-length",)),
    "2025-12-embeddings-with-cluster-stats": Reproduced(
        "embeddings-2025", "embeddings", sorted=True, without=("content-length",)
    ),
    "2025-11-responses-nonstream-minus1": Reproduced("gpt-2025", "responses", sorted=True, without=("content-length",)),
    "2025-12-422-model-error": Reproduced("filtered-2025", sorted=True, without=("content-length",)),
    "2025-12-chat-deepseek": Reproduced("deepseek-2025", sorted=True),
    "2023-12-429-tpm-issue": Reproduced("scarce-2024", only=True),
    "403-public-network": Reproduced("", "closed", only=True),
}
# Constant wherever they are sent.
CONSTANT = (
    "access-control-allow-origin",
    "access-control-expose-headers",
    "azureai-fe-offer-type",
    "azureai-processed-tier",
    "cache-control",
    "content-type",
    "ms-azureml-model-error-statuscode",
    "policy-id",
    "skip-error-remapping",
    "strict-transport-security",
    "x-accel-buffering",
    "x-content-type-options",
    "x-ms-is-spilled-over",
    "x-ms-rai-invoked",
    "x-ratelimit-renewalperiod-tokens",
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    config = '[resources.one]\nregion = "East US 2"\n' + AT_ONCE
    for name, model in DEPLOYMENTS.items():
        generation = name.partition("-20")[2]
        config += f'[resources.one.deployments."{name}"]\nmodel = "{model}"\ngeneration = "20{generation}"\n'
        config += "tokens_per_minute = 1\n" if name.startswith("scarce") else PLENTY
    config += f'[resources.closed]\nregion = "East US"\npublic_access = false\n{AT_ONCE.replace("one", "closed")}'
    config += f'[resources.closed.deployments.chat]\nmodel = "{GPT}"\n'
    config += '[[faults]]\nname = "model_error"\ndeployment = "filtered-2025"\n'
    with simulating(tmp_path_factory.mktemp("recorded"), config) as running:
        yield running


PATHS = {
    "chat": "/openai/deployments/{}/chat/completions?api-version=2024-10-21",
    "completions": "/openai/deployments/{}/completions?api-version=2024-10-21",
    "embeddings": "/openai/deployments/{}/embeddings?api-version=2024-10-21",
    "responses": "/openai/v1/responses",
    "foundry": "/models/chat/completions?api-version=2024-05-01-preview",
    "path": "/openai/nowhere?api-version=2024-10-21",
}


ASKS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 5},
    "completions": {"prompt": "Hello there"},
    "embeddings": {"input": "Hello there"},
    "responses": {"input": "Hello there", "max_output_tokens": 16},
}


def ask(simulated: Simulated, one: Reproduced) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers and body."""
    target = simulated.target("closed" if one.surface == "closed" else "one")
    path = PATHS.get(one.surface, PATHS["chat"]).format(one.deployment)
    fields = {"model": one.deployment, "stream": one.stream, **ASKS.get(one.surface, ASKS["chat"])}
    key = "wrong" if one.surface == "bad key" else target.api_key
    status, lines, body = raw(target, path, f"api-key: {key}", body=json.dumps(fields).encode())
    headers = dict(line.split(": ", 1) for line in lines)
    return status, headers, dechunked(body) if headers.get("transfer-encoding") == "chunked" else body


def dechunked(body: bytes) -> bytes:
    size, _, rest = body.partition(b"\r\n")
    length = int(size, 16)
    return rest[:length] + dechunked(rest[length + 2 :]) if length else b""


@cache
def recorded(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text())


def headers_of(recording: dict[str, Any]) -> dict[str, str]:
    return (
        {one["name"].lower(): one["value"] for one in recording["headers"]}
        if isinstance(recording["headers"], list)
        else {name.lower(): value for name, value in recording["headers"].items()}
    )


@pytest.mark.parametrize("name", SETS)
def test_a_recorded_header_set_has_a_generation_that_yields_its_names_in_its_order(
    simulated: Simulated, name: str
) -> None:
    (recording,) = [one for one in recorded("header_sets.json") if one["id"] == name]
    expected, how = headers_of(recording), SETS[name]
    for _ in range(2 if how.deployment.startswith("scarce") else 1):
        status, headers, _body = ask(simulated, how)
    assert f" {recording['status']} {recording.get('reason') or ''}" in status + " "
    names = [one.lower() for one in headers if one.lower() not in how.without]
    if how.only:
        assert set(expected) <= set(names)
    elif how.sorted:
        assert sorted(names) == sorted(expected)
    else:
        assert names == list(expected)
    ours = {one.lower(): value for one, value in headers.items()}
    kept = [one for one in CONSTANT if expected.get(one) is not None]
    assert {one: ours[one] for one in kept} == {one: expected[one] for one in kept}


def test_every_recorded_header_set_is_named_here() -> None:
    assert {one["id"] for one in recorded("header_sets.json")} == SETS.keys()


# Those that test_simulator.py does not hold to the byte.
BODIES = {
    "AOAI, public network access disabled": Reproduced("", "closed"),
    "AOAI front end relaying a model-side validation error": Reproduced("filtered-2025"),
    "AOAI standard, token rate, old wording (2023-2025)": Reproduced("scarce-2024"),
    "AOAI standard, token rate, new wording (Dec 2025)": Reproduced("scarce-2025"),
    "Foundry /models route, partner model (Aug 2026)": Reproduced("scarce-grok-2026-08", "foundry"),
}


@pytest.mark.parametrize("where", BODIES)
def test_a_recorded_error_body_is_answered_but_for_names_and_numbers(simulated: Simulated, where: str) -> None:
    (recording,) = [one for one in recorded("error_bodies.json") if one["where"].endswith(where)]
    for _ in range(2):
        status, _, body = ask(simulated, BODIES[where])
    assert f" {recording['status']} " in status
    assert alike(json.loads(body)) == alike(recording["body"])


def alike(value: Any) -> Any:
    """Without what is the caller's or the moment's: deployments, models, regions, versions and seconds."""
    text = json.dumps(value, sort_keys=True)
    text = re.sub(r"requests to \S+ for \S+ in .*? have", "requests to D for M in R have", text)
    return re.sub(r"version [\w-]+|after \d+ seconds?", "N", text)


# Recorded streams of chat, and the generation that sends the same events. Others of the same service and year differ in
# which filters their deployments have, or come from partner models.
STREAMS = {
    "065_azure-openai_chat_gpt-35-turbo_plain.sse": Reproduced("gpt-2024", stream=True),
    "025_cognitiveservices_chat_gpt-4.1-nano-2025-04-14_usage.sse": Reproduced("gpt-2025", stream=True),
    "029_cognitiveservices_chat_gpt-4o-mini-2024-07-18_usage.sse": Reproduced("gpt-2025", stream=True),
    "036_cognitiveservices_chat_gpt-5-chat-2025-10-03_usage.sse": Reproduced("gpt-2025", stream=True),
    "042_cognitiveservices_chat_gpt-5-nano-2025-08-07_usage.sse": Reproduced("gpt-2025", stream=True),
    "049_cognitiveservices_chat_o3-mini-2025-01-31_usage.sse": Reproduced("gpt-2025", stream=True),
    "052_cognitiveservices_chat_o4-mini-2025-04-16_usage.sse": Reproduced("gpt-2025", stream=True),
    "103_azure-openai_chat_gpt-4o-mini-2024-07-18_usage.sse": Reproduced("gpt-2026-02", stream=True),
    "077_azure-openai_chat_gpt-5.2-2025-12-11_usage.sse": Reproduced("gpt-2026-06", stream=True),
    "053_azure-openai_chat_gpt-5-mini-2025-08-07_usage.sse": Reproduced("gpt-2026-06", stream=True),
    "058_azure-openai_chat_o4-mini-2025-04-16_usage.sse": Reproduced("gpt-2026-06", stream=True),
    "093_foundry_chat_gpt-5-mini-2025-08-07_usage.sse": Reproduced("gpt-2025", stream=True),
    "080_azure-openai_chat_gpt-4o-mini-2024-07-18_usage.sse": Reproduced("gpt-2026-02", stream=True),
    "073_foundry_chat_grok-4-1-fast-non-reasoning_usage.sse": Reproduced("grok-2026-08", "foundry", stream=True),
    "022_cognitiveservices_chat_gpt-4.1-mini-2025-04-14_tool_calls-usage.sse": Reproduced("gpt-2025", stream=True),
    "028_cognitiveservices_chat_gpt-4o-mini-2024-07-18_tool_calls-usage.sse": Reproduced("gpt-2025", stream=True),
    "038_cognitiveservices_chat_gpt-5-mini-2025-08-07_tool_calls-usage.sse": Reproduced("gpt-2025", stream=True),
    "054_azure-openai_chat_gpt-5-mini-2025-08-07_tool_calls-usage.sse": Reproduced("gpt-2026-06", stream=True),
    "071_foundry_chat_grok-4-1-fast-non-reasoning_tool_calls-usage.sse": Reproduced(
        "grok-2026-08", "foundry", stream=True
    ),
}


WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
PER_DEPLOYMENT = ("content_filter_results", "system_fingerprint")


def shape(value: Any) -> Any:
    """The keys, in order, and the kinds of what they hold. Which filters there are is the deployment's own."""
    if isinstance(value, dict):
        return [(key, None if key in PER_DEPLOYMENT else shape(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value).__name__


def kinds(events: list[str]) -> list[Any]:
    """The shapes of a stream's events, in order, each run of equal ones once."""
    shapes = [shape(json.loads(data)) if data != "[DONE]" else data for data in events]
    return [one for number, one in enumerate(shapes) if number == 0 or one != shapes[number - 1]]


def data_of(stream: str) -> list[str]:
    return [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_has_a_generation_that_sends_the_same_events(simulated: Simulated, name: str) -> None:
    theirs = data_of((FIXTURES / "sse" / name).read_text(encoding="utf-8"))
    asked: dict[str, Any] = {"stream_options": {"include_usage": True}} if "usage.sse" in name else {}
    if "tool_calls" in name:
        asked["tools"] = [{"type": "function", "function": WEATHER}]
    body = whole_body(simulated, STREAMS[name], **asked)
    assert kinds(data_of(body)) == kinds(theirs)


def whole_body(simulated: Simulated, one: Reproduced, **changes: Any) -> str:
    target = simulated.target("one")
    fields = {"model": one.deployment, "stream": True, **ASKS["chat"], **changes}
    path = PATHS[one.surface].format(one.deployment)
    _, _, body = raw(target, path, f"api-key: {target.api_key}", body=json.dumps(fields).encode())
    return dechunked(body).decode()


# On some replies of a generation and not on others, or of a proxy in between.
INTERMITTENT = {
    "access-control-allow-origin",
    "api-supported-versions",
    "azureai-model-sessionid",
    "cache-control",
    "cmp-upstream-response-duration",
    "connection",
    "content-length",
    "openai-organization",
    "prompt_token_len",
    "request-id",
    "sampling_token_len",
    "set-cookie",
    "transfer-encoding",
    "vary",
    "x-accel-buffering",
    "x-envoy-upstream-service-time",
    "x-ms-azureml-cluster-local-active-requests",
    "x-ms-client-request-id",
}


def generation_of(recording: dict[str, Any]) -> str:
    """By the reply's date."""
    date = parsedate_to_datetime(recording["headers"]["date"])
    starts = [("2026-08", "2026-08"), ("2026-06", "2026-06"), ("2026-03", "2026-03"), ("2026-01", "2026-02")]
    starts += [("2025-03", "2025"), ("2024-02", "2024")]
    return next((generation for start, generation in starts if f"{date:%Y-%m}" >= start), "2023")


def test_nearly_every_recorded_reply_has_the_headers_of_its_dates_generation(simulated: Simulated) -> None:
    lines = map(json.loads, (FIXTURES / "real_headers.jsonl").read_text().splitlines())
    replies = [one for one in lines if one["status"] == 200 and one["endpoint"] in ("chat", "completions")]
    replies = [one for one in replies if {"apim-request-id", "date"} <= one["headers"].keys()]
    same = Counter(
        (one["endpoint"], generation_of(one), set(one["headers"]) - INTERMITTENT == ours(simulated, one))
        for one in replies
    )
    other = {(endpoint, generation): count for (endpoint, generation, like), count in same.items() if not like}
    # Two early replies of September 2023 with OpenAI's own header names; one of April 2026, between two generations.
    assert other == {("chat", "2023"): 2, ("completions", "2023"): 1, ("chat", "2026-03"): 1}
    assert sum(same.values()) > 100


def ours(simulated: Simulated, recording: dict[str, Any]) -> set[str]:
    """The names that the simulator answers in the recording's place."""
    generation, model = generation_of(recording), str(recording["model"]).lower()
    foundry = recording["path"].startswith("/models/")
    deployment = {"deepseek": "deepseek-2025", "mai-ds": "deepseek-2025", "grok": f"grok-{generation}"}
    name = next((name for start, name in deployment.items() if model.startswith(start)), f"gpt-{generation}")
    surface = "foundry" if foundry else recording["endpoint"]
    _, headers, _ = ask(simulated, Reproduced(name, surface, bool(recording["stream"])))
    return {one.lower() for one in headers} - INTERMITTENT
