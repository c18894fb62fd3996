from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.record import NEVER_TIMED, OUTCOMES, ObservedCall, decode, encode

MADE: dict[str, Any] = {
    "target": "eastus",
    "gateway": "direct",
    "server_address": "eastus.openai.azure.com",
    "server_port": 443,
    "start_time_unix_nano": 1_763_913_600_000_000_000,
    "operation": "chat",
    "request_model": "gpt-4o",
    "request_stream": True,
    "outcome": "ok",
    "status_code": 200,
    "duration": 1.5,
}


def made(**changes: Any) -> ObservedCall:
    return ObservedCall(**{**MADE, **changes})


seconds = st.floats(0, 1000, allow_nan=False)
calls = st.builds(
    made,
    outcome=st.sampled_from([name for name in OUTCOMES if name not in {"throttled", *NEVER_TIMED}]),
    duration=seconds,
    connect=st.none() | seconds,
    headers=st.lists(
        st.tuples(st.text(st.characters(max_codepoint=255)), st.text(st.characters(max_codepoint=255)))
    ).map(tuple),
    event_times=st.lists(st.integers(0, 10**9)).map(tuple),
    error_message=st.none() | st.text(),
    input_tokens=st.none() | st.integers(0, 10**6),
)


@given(calls)
def test_a_call_is_the_same_after_encoding_and_decoding_and_takes_one_line(call: ObservedCall) -> None:
    line = encode(call)
    assert decode(line) == call
    assert b"\n" not in line


def test_what_was_not_observed_is_left_off_the_line() -> None:
    line = msgspec.json.decode(encode(made()))
    assert line["probe.target"] == "eastus"
    assert line["gen_ai.operation.name"] == "chat"
    assert not {"gen_ai.usage.input_tokens", "probe.time_to_first_token", "probe.scheduled", "error.type"} & set(line)


def test_nothing_observed_to_be_zero_or_false_is_left_off() -> None:
    line = msgspec.json.decode(encode(made(input_tokens=0, connection_reused=False, issued=0.0)))
    assert line["gen_ai.usage.input_tokens"] == 0
    assert line["probe.connection_reused"] is False
    assert line["probe.issued"] == 0.0


@pytest.mark.parametrize(
    "nonsense",
    [
        {"status_code": None},
        {"outcome": "throttled", "status_code": 429},
        {"duration": -0.1},
        {"time_to_first_token": 0.2, "time_to_headers": 0.3},
        {"time_to_first_token": 2.0},
    ],
)
def test_a_record_that_cannot_be_true_is_refused(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        made(**nonsense)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'{"probe.target": "x"}',
        encode(made())[:-1],
        encode(made())[:-1] + b',"more":1}',
        encode(made()).replace(b'"ok"', b'"fine"'),
    ],
)
def test_a_line_that_encode_could_not_have_written_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_a_header_is_found_in_any_case_with_all_its_values_in_order() -> None:
    call = made(headers=(("X-MS-Region", "East US"), ("date", "now"), ("x-ms-region", "West US")))
    assert call.header("x-ms-region") == ("East US", "West US")
    assert call.header("retry-after") == ()


def test_a_call_that_was_never_sent_lasted_no_time_and_one_that_was_did() -> None:
    never = made(outcome="dropped_not_sent", status_code=None, error_type="dropped_not_sent", duration=None)
    assert b"duration" not in encode(never)
    for outcome, duration in (("dropped_not_sent", 0.0), ("ok", None)):
        with pytest.raises(ValueError, match="lasted"):
            made(outcome=outcome, duration=duration)
