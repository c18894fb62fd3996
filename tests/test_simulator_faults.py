"""Every fault as the client sees it: all of them at once, each on a deployment of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import openai
import pytest

from probe.client import Client
from probe.prompts import numbered
from probe.record import ObservedCall
from probe.transport import Timeouts
from simulator.faults import SWITCHES
from tests.commands import run
from tests.simulators import AT_ONCE, Simulated, simulating

PROMPT = numbered(1, 30, 8)
SHORT = Timeouts(connect=1.0, first_byte=0.9, idle=0.9, total=3.0)


class Seen(NamedTuple):
    """What a stream and a whole reply come out as; None where the fault leaves them alone."""

    stream: str
    whole: str | None = "ok_length"
    warnings: tuple[str, ...] = ()
    kind: str | None = None


def alike(outcome: str, *warnings: str, kind: str | None = None) -> Seen:
    return Seen(outcome, outcome, warnings, kind)


def only_streams(outcome: str, *warnings: str) -> Seen:
    return Seen(outcome, warnings=warnings)


EXPECTED = {
    "no_answer": alike("timeout_first_byte"),
    "closed_unanswered": alike("connect"),
    "reset_unanswered": alike("connect"),
    "closed_after": alike("ok_length"),
    "headers_only": alike("timeout_first_byte"),
    "garbage": alike("protocol_error"),
    "interim": alike("ok_length"),
    "length_too_long": Seen("ok_length", "protocol_error", ("unterminated_chunked",)),
    "length_too_short": Seen("ok_length", "payload_error", ("no_done", "bad_event")),
    "length_twice": alike("protocol_error"),
    "header_nul": alike("protocol_error"),
    "header_bare_lf": alike("protocol_error"),
    "header_folded": alike("ok_length"),
    "header_space": alike("protocol_error"),
    "header_escape": alike("ok_length"),
    "header_c1": alike("ok_length"),
    "header_utf8": alike("ok_length"),
    "header_large": alike("ok_length", "headers_truncated"),
    "header_many": alike("ok_length", "headers_truncated"),
    "region_twice": alike("ok_length"),
    "region_changes": alike("ok_length"),
    "gzip_plain": alike("payload_error"),
    "redirect": alike("redirect_refused"),
    "dripped": Seen("stream_stalled", "timeout_total"),
    "html": alike("payload_error"),
    "bad_chunk_size": only_streams("protocol_error"),
    "negative_chunk_size": only_streams("protocol_error"),
    "huge_chunk_size": only_streams("protocol_error"),
    "chunk_extensions": only_streams("ok_length", "trailers"),
    "stream_unterminated": only_streams("ok_length", "unterminated_chunked"),
    "stream_truncated": only_streams("stream_truncated"),
    "stream_closed": only_streams("stream_truncated"),
    "stream_reset": only_streams("stream_reset"),
    "stream_stalled": only_streams("stream_stalled"),
    "stream_buffered": only_streams("ok_length"),
    "stream_empty": only_streams("empty_stream"),
    "stream_error": only_streams("stream_error_event"),
    "split_events": only_streams("ok_length"),
    "split_characters": only_streams("ok_length"),
    "mixed_line_ends": only_streams("ok_length"),
    "pings": only_streams("ok_length"),
    "many_lines": only_streams("ok_length"),
    "done_missing": only_streams("ok_length", "no_done"),
    "finish_missing": only_streams("ok", "no_finish_reason"),
    "after_done": only_streams("ok_length", "events_after_done"),
    "event_not_json": only_streams("ok_length", "bad_event"),
    "event_not_utf8": only_streams("ok_length", "bad_event"),
    "event_huge": only_streams("payload_error"),
    "late_annotation": only_streams("ok_length"),
    "usage_missing": only_streams("ok_length"),
    "usage_wrong": only_streams("ok_length"),
    "usage_twice": only_streams("ok_length"),
    "text_empty": only_streams("ok_length"),
    "not_sse": only_streams("payload_error"),
    "high_demand": alike("throttled", kind="high_demand"),
    "daily_quota": alike("throttled", kind="quota_day"),
    "unhinted_429": alike("throttled", kind="high_demand"),
    "retry_after_date": alike("throttled", kind="high_demand"),
    "retry_after_fraction": alike("throttled", kind="high_demand"),
    "retry_after_negative": alike("throttled", kind="high_demand"),
    "retry_after_text": alike("throttled", kind="high_demand"),
    "limits_unknown": alike("ok_length"),
    "remaining_stale": alike("ok_length"),
    "utilization_empty": alike("ok_length"),
    "utilization_above": alike("ok_length"),
    "utilization_bare": alike("ok_length"),
    "version_unknown": alike("not_found"),
    "auth_lost": alike("auth"),
    "access_denied": alike("forbidden"),
    "deployment_gone": alike("not_found"),
    "prompt_filtered": alike("filtered_prompt"),
    "output_filtered": alike("filtered_output"),
    "model_error": alike("bad_request"),
    "server_error": alike("server_error"),
    "unavailable": alike("server_error"),
    "timeout_408": alike("server_error"),
    "client_closed_499": alike("server_error"),
    "bad_gateway": alike("gateway_error"),
    "gateway_timeout": alike("server_error"),
    "overloaded_529": alike("server_error"),
}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    deployments = "".join(
        f'[resources.one.deployments."{name}"]\nmodel = "gpt-4.1-mini-2025-04-14"\n'
        f'[[faults]]\nname = "{name}"\ndeployment = "{name}"\n'
        for name in SWITCHES
    )
    config = f'[resources.one]\nregion = "East US 2"\n{AT_ONCE}{deployments}'
    with simulating(tmp_path_factory.mktemp("faults"), config) as running:
        yield running


def observe(simulated: Simulated, name: str, stream: bool) -> ObservedCall:
    # Where nothing is waited for, a busy machine may take its time.
    waits = EXPECTED[name].stream.startswith(("timeout_", "stream_stalled"))
    client = Client(timeouts=SHORT if waits else Timeouts())
    try:
        return client.observe(simulated.target("one", name), PROMPT, stream=stream)
    finally:
        client.close()


def test_every_fault_has_an_expectation() -> None:
    assert EXPECTED.keys() == SWITCHES.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_stream_with_the_fault_comes_out_as_what_it_is(simulated: Simulated, name: str) -> None:
    call = observe(simulated, name, stream=True)
    assert (call.outcome, call.throttle_kind) == (EXPECTED[name].stream, EXPECTED[name].kind)
    assert set(call.warnings) == set(EXPECTED[name].warnings)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_whole_reply_with_the_fault_comes_out_as_what_it_is(simulated: Simulated, name: str) -> None:
    call = observe(simulated, name, stream=False)
    assert call.outcome == EXPECTED[name].whole
    assert not SWITCHES[name].streams or call.outcome == "ok_length"


def test_an_error_in_a_stream_of_responses_is_one_that_the_sdk_raises(simulated: Simulated) -> None:
    target = simulated.target("one")
    client = openai.OpenAI(base_url=f"{target.endpoint}/openai/v1/", api_key=target.api_key, max_retries=0)
    with pytest.raises(openai.APIError, match="The server had an error"):
        list(client.responses.create(model="stream_error", input="Hello", stream=True))


def test_the_ledger_says_what_was_thrown_at_a_call_and_what_was_not(simulated: Simulated) -> None:
    ids = [header(observe(simulated, "done_missing", stream), "apim-request-id") for stream in (True, False)]
    streamed, whole = map(simulated.line_of, ids)
    assert streamed["faults"] == ["done_missing"] and "faults" not in whole


def header(call: ObservedCall, name: str) -> str:
    (value,) = call.header(name)
    return value


def test_a_share_of_the_calls_is_hit_and_the_others_are_whole(tmp_path: Path) -> None:
    config = f"""
[resources.one]
region = "East US 2"
{AT_ONCE}
[resources.one.deployments.chat]
model = "gpt-4.1-mini-2025-04-14"
requests_per_minute = 10000
tokens_per_minute = 1000000
[[faults]]
name = "stream_truncated"
share = 0.2
"""
    with simulating(tmp_path, config) as simulated:
        client = Client()
        outcomes = [client.observe(simulated.target("one"), PROMPT, stream=True).outcome for _ in range(100)]
        client.close()
    hit = sum("faults" in line for line in simulated.ledger())
    assert set(outcomes) == {"ok_length", "stream_truncated"}
    assert outcomes.count("stream_truncated") == hit
    assert 8 <= hit <= 35


def test_a_fault_of_the_command_line_has_its_place_and_its_time(tmp_path: Path) -> None:
    faults = ("--fault", "server_error@eastus2/gpt-4.1-mini", "--fault", "auth_lost@swedencentral@3600-")
    with simulating(tmp_path, "", *faults) as simulated:
        client = Client()
        outcomes = [
            client.observe(simulated.target(name), PROMPT, stream=False).outcome
            for name in ("eastus2", "swedencentral")
        ]
        client.close()
    assert outcomes == ["server_error", "ok_length"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("stream_trunkated:5%", "there is no fault stream_trunkated; did you mean stream_truncated?"),
        ("stream_truncated:5", "'stream_truncated:5' is not a fault; write NAME:SHARE%"),
        ("server_error:5%@nowhere", "server_error: there is no resource or gateway nowhere"),
        ("server_error:5%@eastus2/gpt-9", "server_error: eastus2 has no deployment gpt-9"),
    ],
)
def test_a_fault_that_there_is_not_ends_in_one_line(fault: str, says: str) -> None:
    done = run("simulator", "--fault", fault)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_the_faults_are_listed_with_what_they_do() -> None:
    listed = run("simulator", "--list-faults").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(SWITCHES)
    assert all(len(line.split()) > 1 for line in listed)
