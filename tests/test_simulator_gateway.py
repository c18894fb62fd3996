"""API Management as its clients meet it: keys, pool, limits, buffering, and what its policies do to a reply."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from probe.client import Client
from probe.prompts import numbered
from probe.record import ObservedCall
from simulator.config import Breaker, TokenLimit
from simulator.gateway.pool import Member, Pool
from simulator.gateway.quota import TokenCounter
from tests.simulators import AT_ONCE, Simulated, simulating
from tests.test_simulator import raw

PROMPT = numbered(1, 30, 8)
RESOURCES = f"""
[resources.one]
region = "East US 2"
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
requests_per_minute = RPM
[resources.two]
region = "Sweden Central"
{AT_ONCE.replace("one", "two")}
[resources.two.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
[gateways.gate]
"""
BOTH = 'backends = [{ resource = "one" }, { resource = "two" }]\n'
ONE = 'backends = [{ resource = "one" }]\n'

Start = Callable[..., AbstractContextManager[Simulated]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A simulator of two resources and a gateway with these policies."""

    def simulate(policies: str, rpm: int = 600) -> AbstractContextManager[Simulated]:
        return simulating(tmp_path, RESOURCES.replace("RPM", str(rpm)) + policies)

    yield simulate


def observe(simulated: Simulated, stream: bool = False, **headers: str) -> ObservedCall:
    client = Client()
    try:
        return client.observe(simulated.target("gate"), PROMPT, stream=stream)
    finally:
        client.close()


def header(call: ObservedCall, name: str) -> str | None:
    return next((value for other, value in call.headers if other.lower() == name.lower()), None)


def gateway_calls(simulated: Simulated) -> list[dict[str, Any]]:
    return [line for line in simulated.ledger() if line["resource"] == "gate"]


def test_calls_go_to_the_back_ends_in_turn_by_weight(start: Start) -> None:
    backends = 'backends = [{ resource = "one", weight = 3 }, { resource = "two", weight = 1 }]\n'
    with start(backends) as simulated:
        regions = [header(observe(simulated), "x-ms-region") for _ in range(8)]
    assert (regions.count("East US 2"), regions.count("Sweden Central")) == (6, 2)


def test_a_tripped_breaker_sends_calls_to_the_next_priority_and_an_exhausted_pool_is_503(start: Start) -> None:
    backends = 'backends = [{ resource = "one", priority = 1 }, { resource = "two", priority = 2 }]\n'
    with start(backends + "[gateways.gate.breaker]\n", rpm=1) as simulated:
        calls = [observe(simulated) for _ in range(3)]
    assert [call.status_code for call in calls] == [200, 429, 200]
    assert header(calls[2], "x-ms-region") == "Sweden Central"


def test_an_exhausted_pool_answers_503_itself(start: Start) -> None:
    with start(ONE + "[gateways.gate.breaker]\n", rpm=1) as simulated:
        calls = [observe(simulated) for _ in range(3)]
    assert [call.status_code for call in calls] == [200, 429, 503]
    assert (calls[2].outcome, header(calls[2], "apim-request-id")) == ("gateway_error", None)


def test_a_retry_is_unseen_by_the_client_and_seen_by_the_back_end(start: Start) -> None:
    with start(BOTH + "[gateways.gate.retry]\ncount = 1\ninterval = 0\n", rpm=1) as simulated:
        # one, two, one (refused) and two in its place.
        assert [observe(simulated).status_code for _ in range(3)] == [200] * 3
    assert gateway_calls(simulated)[2]["backends"] == ["one 429", "two 200"]
    assert len(simulated.logged("RequestResponse")) == 4


def test_a_buffered_stream_comes_in_one_piece(start: Start) -> None:
    with start(ONE + "buffer_response = true\n") as simulated:
        call = observe(simulated, stream=True)
    (passed,) = gateway_calls(simulated)
    assert call.outcome == "ok_length" and call.output_tokens == 8
    assert header(call, "transfer-encoding") is None
    assert passed["headers_at"] == passed["last_at"]


def test_streaming_can_be_blocked_with_a_404_that_is_the_gateways(start: Start) -> None:
    with start(ONE + "block_streaming = true\n") as simulated:
        call = observe(simulated, stream=True)
        assert observe(simulated).outcome == "ok_length"
    assert len(simulated.logged("RequestResponse")) == 1
    assert (call.status_code, header(call, "apim-request-id")) == (404, None)
    assert header(call, "Microsoft-Azure-Api-Management-Correlation-Id") is not None


def test_a_policy_that_reads_the_body_turns_a_stream_into_500_after_it_was_paid_for(start: Start) -> None:
    with start(ONE + "log_bodies = true\nerror_headers = true\n") as simulated:
        call = observe(simulated, stream=True)
        assert observe(simulated).outcome == "ok_length"
    paid = [json.loads(record["properties"]) for record in simulated.logged("AzureOpenAIRequestUsage")]
    assert (call.status_code, call.outcome) == (500, "gateway_error")
    assert header(call, "ErrorReason") == "ExpressionValueEvaluationFailure"
    assert [usage["generatedTokens"] for usage in paid] == [[8], [8]]


def test_stripped_headers_are_gone_and_the_others_are_not(start: Start) -> None:
    with start(ONE + 'strip_headers = ["x-ms-region", "apim-request-id"]\n') as simulated:
        call = observe(simulated)
    assert header(call, "x-ms-region") is None and header(call, "apim-request-id") is None
    assert header(call, "x-ms-deployment-name") == "chat"


def test_a_debug_token_brings_a_trace_id(start: Start) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
    with start(ONE + "trace = true\n") as simulated:
        target = simulated.target("gate")
        key = f"api-key: {target.api_key}"
        _, traced, _ = raw(target, target.path, key, "Apim-Debug-Authorization: made-up", body=body)
        _, plain, _ = raw(target, target.path, key, body=body)
    assert len([line for line in traced if line.startswith("Apim-Trace-Id: ")]) == 1
    assert not [line for line in plain if line.startswith("Apim-Trace-Id")]


def test_no_key_is_asked_for_where_subscriptions_are_off(start: Start) -> None:
    with start(ONE + "subscription_keys = false\n") as simulated:
        target = simulated.target("gate")
        status, _, _ = raw(target, target.path, body=b"{}")
    assert status == "HTTP/1.1 400 Bad Request"


def test_the_token_limit_answers_429_and_the_quota_403_under_the_headers_that_are_named(start: Start) -> None:
    policy = """
[gateways.gate.token_limit]
tokens_per_minute = 40
token_quota = 10000
remaining_tokens_header = "x-left"
remaining_quota_header = "x-quota"
consumed_tokens_header = "x-used"
retry_after_header = "x-wait"
"""
    with start(ONE + policy) as simulated:
        first, second = observe(simulated), observe(simulated)
    assert len(simulated.logged("RequestResponse")) == 1
    used = (first.input_tokens or 0) + (first.output_tokens or 0)
    named = [header(first, name) for name in ("x-used", "x-left", "x-quota")]
    assert named == [str(used), str(40 - used), str(10_000 - used)]
    assert (second.outcome, second.throttle_kind, second.status_code) == ("throttled", "apim", 429)
    assert 55 <= int(header(second, "x-wait") or 0) <= 60


def test_a_used_up_quota_is_403(start: Start) -> None:
    with start(ONE + "[gateways.gate.token_limit]\ntoken_quota = 40\n") as simulated:
        assert [observe(simulated).status_code for _ in range(2)] == [200, 403]


def test_a_prompt_that_was_answered_is_answered_from_the_semantic_cache(start: Start) -> None:
    with start(ONE + "[gateways.gate.semantic_cache]\n") as simulated:
        first, second = observe(simulated), observe(simulated)
    assert len(simulated.logged("RequestResponse")) == 1
    logged = [json.loads(record["properties"]) for record in simulated.logged("GatewayLogs")]
    assert header(first, "apim-request-id") == header(second, "apim-request-id")
    assert [one["cache"] for one in logged] == ["none", "hit"]
    assert "backendTime" not in logged[1]


def test_the_gateways_own_logs_count_tokens_and_split_messages(start: Start) -> None:
    with start(ONE + 'llm_messages = true\nlog_headers = ["apim-request-id"]\n') as simulated:
        call = observe(simulated)
    (passed,) = simulated.logged("GatewayLogs")
    llm = [json.loads(record["properties"]) for record in simulated.logged("GatewayLlmLog")]
    properties = json.loads(passed["properties"])
    assert properties["backendResponseHeaders"] == {"apim-request-id": header(call, "apim-request-id")}
    assert passed["correlationId"] != header(call, "apim-request-id")
    assert (llm[0]["promptTokens"], llm[0]["completionTokens"]) == (call.input_tokens, 8)
    assert (llm[0]["deploymentName"], llm[0]["sequenceNumber"]) == ("chat", 0)
    assert "".join(row.get("requestMessages", "") for row in llm).startswith('{"messages"')


def test_a_managed_identity_calls_the_back_end_in_its_own_name(start: Start) -> None:
    with start(ONE + "managed_identity = true\n") as simulated:
        assert observe(simulated).outcome == "ok_length"
    (record,) = simulated.logged("RequestResponse")
    assert len(json.loads(record["properties"])["objectId"]) == 36


def test_a_breaker_counts_within_its_interval_and_takes_the_back_ends_own_time() -> None:
    member = Member("a", 1, 1, Breaker(failures=2, within=10, open_for=60))
    pool = Pool([member])
    member.failed(0.0, None)
    member.failed(11.0, None)
    assert pool.choose(11.0) is member
    member.failed(12.0, 5.0)
    assert pool.choose(16.9) is None and pool.choose(17.0) is member


def test_a_token_window_opens_with_its_first_call_and_overshoots_by_what_was_not_foreseen() -> None:
    counter = TokenCounter(TokenLimit(tokens_per_minute=100))
    assert counter.admit(60, 10.0) is None
    counter.use(60, 12.0)
    refused = counter.admit(1, 13.0)
    assert refused is not None and (refused.quota, refused.wait) == (False, 57.0)
    assert counter.admit(60, 70.0) is None
