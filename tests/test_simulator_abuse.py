"""Whatever is sent to it, the simulator answers in the service's way and has nothing to complain of."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.simulators import AT_ONCE, Simulated, simulating

CONFIG = f"""
[resources.one]
region = "East US 2"
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
tokens_per_minute = 1000000000
requests_per_minute = 1000000
[resources.one.deployments.ptu]
model = "gpt-4.1-mini-2025-04-14"
ptu = 15
[resources.one.deployments.embeddings]
model = "text-embedding-3-small"
tokens_per_minute = 1000000000
requests_per_minute = 1000000
[gateways.gate]
backends = [{{ resource = "one" }}]
[gateways.gate.token_limit]
tokens_per_minute = 1000000
[gateways.gate.semantic_cache]
"""
SURFACES = ("chat/completions", "responses", "completions", "embeddings")
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
message = st.fixed_dictionaries(
    {}, optional={"role": anything | st.just("user"), "content": anything, "tool_calls": anything, "name": anything}
)
tool = st.fixed_dictionaries(
    {},
    optional={"type": st.just("function") | anything, "function": anything, "name": anything, "parameters": anything},
)
bodies = st.fixed_dictionaries(
    {"model": st.sampled_from(["chat", "ptu", "embeddings", "gone", None])},
    optional={
        "messages": st.lists(message, max_size=3) | anything,
        "input": st.lists(message, max_size=2) | anything | st.just("Hello"),
        "prompt": anything | st.just("Hello"),
        "instructions": anything,
        "stream": anything,
        "stream_options": anything | st.just({"include_usage": True}),
        "max_tokens": anything,
        "max_output_tokens": anything,
        "n": anything,
        "tools": st.lists(tool, max_size=2) | anything,
        "tool_choice": anything | st.just("required"),
        "response_format": anything,
        "encoding_format": anything,
        "dimensions": anything,
        "reasoning": anything,
        "text": anything,
    },
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    # On its way out it is held to have written nothing on standard error.
    with simulating(tmp_path_factory.mktemp("abuse"), CONFIG) as running:
        yield running


def post(simulated: Simulated, target: str, path: str, body: bytes) -> tuple[int, bytes]:
    about = simulated.target(target)
    connection = http.client.HTTPConnection(about.host, about.port, timeout=20)
    try:
        connection.request("POST", path, body, {"api-key": about.api_key or ""})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@given(st.sampled_from(SURFACES), bodies, st.sampled_from(["one", "gate"]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_body_of_any_shape_is_answered_or_refused(
    simulated: Simulated, surface: str, fields: dict[str, Any], target: str
) -> None:
    status, body = post(simulated, target, f"/openai/v1/{surface}", json.dumps(fields).encode())
    assert status in (200, 400, 404, 429), body
    if status == 400:
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


RIGHT: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "responses": {"input": "x"},
    "completions": {"prompt": "x"},
    "embeddings": {"input": "x"},
}
ODD: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"tools": 5}),
    ("chat/completions", {"tools": [{"type": "function", "function": 5}]}),
    ("chat/completions", {"tools": [{"function": {"name": "a", "parameters": {"type": "object", "properties": 5}}}]}),
    ("chat/completions", {"tools": [{"function": {"name": "a", "parameters": {"enum": []}}}]}),
    ("chat/completions", {"tools": [{"function": {"name": "a"}}], "tool_choice": {"function": 5}}),
    ("chat/completions", {"messages": [{"tool_calls": [5]}]}),
    ("chat/completions", {"messages": [{"content": [5]}]}),
    ("chat/completions", {"max_tokens": 10**12, "stream": True}),
    ("completions", {"n": 10**9}),
    ("completions", {"max_tokens": 10**12}),
    ("responses", {"input": [{"content": 5}]}),
    ("responses", {"max_output_tokens": 10**12}),
    ("responses", {"tools": [{"type": "function", "name": 5, "parameters": 5}]}),
    ("embeddings", {"dimensions": 10**9}),
]


@pytest.mark.parametrize(("surface", "fields"), ODD)
def test_an_odd_field_in_a_body_that_is_right_otherwise_is_taken_or_refused(
    simulated: Simulated, surface: str, fields: dict[str, Any]
) -> None:
    model = "embeddings" if surface == "embeddings" else "chat"
    status, _ = post(
        simulated, "one", f"/openai/v1/{surface}", json.dumps({"model": model, **RIGHT[surface], **fields}).encode()
    )
    assert status in (200, 400)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'"x"', b"null", b'{"model": "\\ud800"}'])
@pytest.mark.parametrize("surface", SURFACES)
def test_a_body_that_is_no_object_is_refused(simulated: Simulated, surface: str, body: bytes) -> None:
    status, _ = post(simulated, "one", f"/openai/v1/{surface}", body)
    assert status in (400, 404)


@pytest.mark.parametrize("path", ["/", "//", "/openai", "/openai/deployments//chat/completions?api-version=1", "/%00"])
def test_a_path_that_is_none_is_not_found(simulated: Simulated, path: str) -> None:
    assert post(simulated, "one", path, b"{}")[0] == 404
    assert post(simulated, "gate", path, b"{}")[0] == 404
